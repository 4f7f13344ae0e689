#!lua flags=allow-oom
-- KEYS open record*    ARGV lease_ms margin_ms (holder id)*
-- -> how many leases were prolonged
local now, lease_ms, margin_ms = now_ms(), number(ARGV[1]), number(ARGV[2])
local prolonged = 0
for i = 2, #KEYS do
  local holder, id = ARGV[2 * i - 1], ARGV[2 * i]
  local r = redis.pcall('HMGET', KEYS[i], 'state', 'holder', 'deadline')
  if r[1] == 'running' and r[2] == holder then
    -- Without a deadline that can be read a sweep sets it aside.
    local lease = math.min(now + lease_ms, noted(r[3]) + margin_ms)
    redis.call('HSET', KEYS[i], 'lease', lease)
    redis.call('ZADD', KEYS[1], 'XX', lease, id)
    prolonged = prolonged + 1
  end
end
return prolonged
