#!lua flags=allow-oom
-- KEYS record open waiting quarantine    ARGV id holder first_wait_ms longest_wait_ms reason
-- -> 1 when nobody took it for a day after its deadline, and it is set aside
local record, now = KEYS[1], now_ms()
local r = redis.call('HMGET', record, 'state', 'holder', 'deadline', 'passed_over')
local deadline = noted(r[3])
if now > deadline + LEFT_TO_NEWER_MS then
  return set_aside(ARGV[1], record, KEYS[2], KEYS[3], KEYS[4], ARGV[5])
end
local wait = math.min(math.max(2 * noted(r[4]), number(ARGV[3])), number(ARGV[4]))
redis.call('HSET', record, 'passed_over', wait)
-- Its lease is given back, so that nobody counts a death.
if r[1] == 'running' and r[2] == ARGV[2] then
  redis.call('HSET', record, 'state', 'suspended', 'due', now + wait)
  redis.call('HDEL', record, 'holder', 'lease', 'woken')
end
redis.call('ZADD', KEYS[2], 'XX', now + wait, ARGV[1])
return 0
