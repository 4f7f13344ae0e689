#!lua flags=no-writes
-- KEYS slots asleep held slowed
-- -> {running, waiting, {model, ms until its hold ends ...}, {model, ms between two calls ...}}
local after_now = '(' .. string.format('%.3f', now_ms())
local held = redis.call('ZRANGEBYSCORE', KEYS[3], after_now, '+inf', 'WITHSCORES')
for i = 2, #held, 2 do held[i] = math.ceil(held[i] - now_ms()) end
return {redis.call('ZCOUNT', KEYS[1], after_now, '+inf'), redis.call('ZCOUNT', KEYS[2], after_now, '+inf'), held,
  redis.call('HGETALL', KEYS[4])}
