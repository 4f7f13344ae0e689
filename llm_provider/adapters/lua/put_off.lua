#!lua flags=allow-oom
-- KEYS open    ARGV wait_ms id*
-- What has left the index meanwhile stays out of it.
local at = now_ms() + number(ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', at, ARGV[i]) end
return #ARGV - 1
