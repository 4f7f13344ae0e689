#!lua flags=allow-oom
-- KEYS breaker slots line due ticket    ARGV call_id
for i = 2, 4 do redis.call('ZREM', KEYS[i], ARGV[1]) end
redis.call('DEL', KEYS[5])
if redis.call('HGET', KEYS[1], 'probe') == ARGV[1] then redis.call('HDEL', KEYS[1], 'probe', 'probe_until') end
