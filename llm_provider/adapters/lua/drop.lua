#!lua flags=allow-oom
-- KEYS record dead    ARGV id retention_ms
-- -> 1 when a dead letter was dropped
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then return 0 end
-- What is still to be delivered lives on; anything else may be forgotten.
if redis.call('HGET', KEYS[1], 'state') ~= 'decided' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
