#!lua flags=allow-oom
-- KEYS open record*    ARGV redispatch_ms id*
-- -> {the ids whose message is to be sent}, {those that are over or unknown}
local now, woken, over = now_ms(), {}, {}
for i = 2, #KEYS do
  local state = redis.pcall('HGET', KEYS[i], 'state')
  if state == 'suspended' then
    redis.call('HSET', KEYS[i], 'due', now)
    redis.call('ZADD', KEYS[1], 'XX', now + number(ARGV[1]), ARGV[i])
    woken[#woken + 1] = ARGV[i]
  elseif state == 'running' then
    -- It was told to sleep, and is woken before it does.
    redis.call('HSET', KEYS[i], 'woken', 1)
  elseif state ~= 'waiting' then
    over[#over + 1] = ARGV[i]
  end
end
return {woken, over}
