#!lua flags=allow-oom
-- KEYS record dead totals quarantine    ARGV id retention_ms
-- -> 1 when a dead letter was dropped
if redis.call('ZREM', KEYS[4], ARGV[1]) == 1 then
  redis.call('DEL', KEYS[1])
  redis.call('HINCRBY', KEYS[3], 'dropped', 1)
  return 1
end
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then return 0 end
-- What is still to be delivered lives on; anything else may be forgotten.
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'decided' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if state == 'dead' then redis.call('HINCRBY', KEYS[3], 'dropped', 1) end
return 1
