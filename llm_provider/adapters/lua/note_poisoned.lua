#!lua flags=allow-oom
-- KEYS record dead    ARGV id reason
-- An operator finds the request among the dead letters, whatever becomes of the event that tells its caller.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local now = wall_ms()
redis.call('HSET', KEYS[1], 'buried', now, 'reason', ARGV[2])
return redis.call('ZADD', KEYS[2], now, ARGV[1])
