-- Finds runs whose deadline has passed, and drops those from the list whose data is gone.
--
-- KEYS: the zset of deadlines. ARGV: 1 the instant, 2 how many, 3 what comes before a run's id in its key.
-- Returns their ids, the longest overdue first.

local due = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])) do
  if redis.call('EXISTS', ARGV[3] .. id) == 1 then
    due[#due + 1] = id
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return due
