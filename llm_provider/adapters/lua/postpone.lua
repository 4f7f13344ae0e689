#!lua flags=allow-oom
-- KEYS record open    ARGV id attempted(0|1) wait_ms+
-- -> the wait in ms, 0 when there is nothing to postpone
if redis.call('HGET', KEYS[1], 'state') ~= 'decided' then return 0 end
local attempts = redis.call('HINCRBY', KEYS[1], 'attempts', ARGV[2])
-- Without an attempt of its own a request waits the first step: it is the topic's gate that backs off.
local step = ARGV[2] == '1' and math.min(attempts, #ARGV - 2) or 1
local wait = number(ARGV[2 + step])
redis.call('ZADD', KEYS[2], 'XX', now_ms() + wait, ARGV[1])
return wait
