-- KEYS check open
-- What accepting begins with, without a trace: it fails where that would. A cluster refuses keys of two slots.
redis.call('SET', KEYS[1], '', 'PX', 1000)
return redis.call('ZCARD', KEYS[2])
