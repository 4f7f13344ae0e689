#!lua flags=allow-oom
-- KEYS (breaker slots)*    ARGV lease_ms (call_id has_slot(0|1))*
-- A lapsed place is taken again: the call that held it runs all the same.
local now, lease_ms = now_ms(), number(ARGV[1])
for i = 2, #KEYS, 2 do
  local breaker, slots, call = KEYS[i - 1], KEYS[i], ARGV[i]
  if ARGV[i + 1] == '1' then
    redis.call('ZADD', slots, now + lease_ms, call)
    redis.call('PEXPIRE', slots, math.ceil(lease_ms) + 1000)
  end
  if redis.call('HGET', breaker, 'probe') == call then
    redis.call('HSET', breaker, 'probe_until', now + lease_ms)
  end
end
