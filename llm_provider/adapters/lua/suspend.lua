#!lua flags=allow-oom
-- KEYS record open    ARGV id holder wait_ms progress sleeps(0|1)
-- -> 1 when the lease was the holder's and is given back
local r = redis.call('HMGET', KEYS[1], 'state', 'holder', 'deadline', 'woken')
if r[1] ~= 'running' or r[2] ~= ARGV[2] then return 0 end
-- At its deadline at the latest somebody must tell its caller.
local is_woken = r[4] and ARGV[5] == '1'
local due = math.min(now_ms() + (is_woken and 0 or number(ARGV[3])), number(r[3]))
redis.call('HSET', KEYS[1], 'state', 'suspended', 'due', due, 'progress', ARGV[4])
redis.call('HDEL', KEYS[1], 'holder', 'lease', 'woken')
redis.call('ZADD', KEYS[2], 'XX', due, ARGV[1])
return 1
