-- Appends the function's own events, if its worker still has the run.
--
-- KEYS: the run's hash, its journal's hash, its events' stream and channel.
-- ARGV: 1 the worker's token, 2 the instant; then of each event the journal's length, the count since
--       then, and the event.
-- Returns how many were new, or -1 if somebody else has the run.

local run, journal, events = KEYS[1], KEYS[2], KEYS[3]
local found = redis.call('HMGET', run, 's', 'k', 't', 'b', 'm')
local status, token, ttl, keep = found[1], found[2], found[3], found[4]
local steps, count = string.match(found[5] or '-1 -1', '(%S+) (%S+)')
steps, count = tonumber(steps), tonumber(count)

if status ~= 'RUNNING' or token ~= ARGV[1] then
  return -1
end

local new, size, lines, number = 0, 0, {}, ''
for at = 3, #ARGV, 3 do
  local its_steps, its_count, event = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2]
  if its_steps > steps or (its_steps == steps and its_count > count) then
    steps, count = its_steps, its_count
    number = string.format('%d', redis.call('HINCRBY', run, 'e', 1))
    redis.call('XADD', events, 'MAXLEN', keep, number .. '-0', 'e', event)
    new, size = new + 1, size + #event
    lines[new] = number .. event
  end
end

if new > 0 then
  redis.call('HSET', run, 'm', string.format('%d %d', steps, count), 'u', ARGV[2])
  redis.call('PUBLISH', events, size <= 32768 and table.concat(lines, '\n') or number)
  redis.call('PEXPIRE', run, ttl)
  redis.call('PEXPIRE', journal, ttl)
  redis.call('PEXPIRE', events, ttl)
end
return new
