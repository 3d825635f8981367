-- Writes one change of a run, all at once, if the run is still at the version that the writer saw.
--
-- KEYS: the run's hash, its journal's hash, its events' stream and channel, the zset of deadlines.
-- ARGV: 1 id, 2 the version seen ('' for a run that must not exist yet), 3 milliseconds to live
--       (0: gone at once),
--       4 deadline ('' for none), 5 event ('' for none), 6 how many events to keep, 7 '1' if the run
--       will rest, 8 and 9 index and text of a journal entry ('' for none), 10 how many fields are set;
--       then these with their values, then the fields to remove.
-- Returns 1, or 0 if nothing was written.

local run, journal, events, deadlines = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, seen, ttl, deadline, event = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local keep, rests, index, entry = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local set = tonumber(ARGV[10])

if (redis.call('HGET', run, 'v') or '') ~= seen then
  return 0
end

local last_set = 10 + 2 * set
redis.call('HSET', run, 't', ttl, 'b', keep, unpack(ARGV, 11, last_set))
if #ARGV > last_set then
  redis.call('HDEL', run, unpack(ARGV, last_set + 1))
end
if index ~= '' then
  redis.call('HSET', journal, index, entry)
end

if deadline == '' then
  redis.call('ZREM', deadlines, id)
else
  redis.call('ZADD', deadlines, deadline, id)
end

if event ~= '' then
  local number = string.format('%d', redis.call('HINCRBY', run, 'e', 1))
  redis.call('XADD', events, 'MAXLEN', keep, number .. '-0', 'e', event)
  -- A large one is announced by its number alone: it would go to every subscriber at once.
  redis.call('PUBLISH', events, #event <= 32768 and number .. event or number)
  if rests == '1' then
    -- A server gives the stream's newest node 4 KB at once, and takes back what is left when another
    -- follows. A run may wait for days: have one follow, and gone.
    local filler = number .. '-1'
    redis.call('XADD', events, filler, 'e', string.rep(' ', 4096))
    redis.call('XDEL', events, filler)
  end
end

redis.call('PEXPIRE', run, ttl)
redis.call('PEXPIRE', journal, ttl)
redis.call('PEXPIRE', events, ttl)
return 1
