-- KEYS record open waiting sequence full pace totals memory_full over
-- ARGV id request texts deadline_ms high_watermark low_watermark progress('': none)
-- -> {1, position, pace} accepted (now or before) | {0, open} full | {2, open} Redis near its memory limit
--    | {3, open} it has been taken back
local record, open, waiting = KEYS[1], KEYS[2], KEYS[3]
local now = now_ms()

if redis.call('EXISTS', record) == 0 then
  local size = redis.call('ZCARD', open)
  if redis.call('EXISTS', KEYS[9]) == 1 then return {3, size} end
  if redis.call('EXISTS', KEYS[8]) == 1 then return {2, size} end
  local was_full = redis.call('EXISTS', KEYS[5]) == 1
  if size >= number(ARGV[5]) or (was_full and size >= number(ARGV[6])) then
    redis.call('SET', KEYS[5], 1, 'EX', 60)
    return {0, size}
  end
  if was_full then redis.call('DEL', KEYS[5]) end
  local deadline = now + number(ARGV[4])
  local turn = redis.call('INCR', KEYS[4])
  redis.call('HSET', record, 'request', ARGV[2], 'texts', ARGV[3], 'state', 'waiting', 'turn', turn,
    'accepted', now, 'deadline', deadline)
  if ARGV[7] ~= '' then redis.call('HSET', record, 'progress', ARGV[7]) end
  redis.call('ZADD', open, deadline, ARGV[1])
  redis.call('ZADD', waiting, turn, ARGV[1])
  redis.call('HINCRBY', KEYS[7], 'accepted', 1)
end
local rank = redis.call('ZRANK', waiting, ARGV[1])
return {1, number(rank or 0) + 1, tostring(pace_per_minute(KEYS[6], now))}
