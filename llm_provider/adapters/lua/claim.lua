#!lua flags=allow-oom
-- KEYS record open waiting sweep suspect totals
-- ARGV id holder lease_ms window_ms margin_ms suspect_after poisoned_after record_prefix
-- -> {'claimed', request, texts, ms_left, progress or nil} | {'expired', request, progress or nil}
--    | {'poisoned', request, progress or nil} | {'decided', request, outcome} | {'left'}
local record, open = KEYS[1], KEYS[2]
local now, lease_ms = now_ms(), number(ARGV[3])
local r = redis.call('HMGET', record, 'state', 'request', 'holder', 'lease', 'deadline', 'outcome', 'turn',
  'due', 'progress')
local state, deadline = r[1], number(r[5])

if not state or state == 'delivered' or state == 'dead' then return {'left'} end
if state == 'decided' then
  -- Within its delivery window somebody else is delivering it.
  if number(redis.call('ZSCORE', open, ARGV[1])) > now then return {'left'} end
  redis.call('ZADD', open, 'XX', now + number(ARGV[4]), ARGV[1])
  return {'decided', r[2], r[6]}
end
if state == 'running' and r[3] ~= ARGV[2] then
  if number(r[4]) > now then return {'left'} end
  if not leases_are_judged(KEYS[4], now, lease_ms) then
    -- Its holder may yet renew it; soon after that can be known a sweep looks again.
    redis.call('ZADD', open, 'XX', now + math.floor(lease_ms / 2), ARGV[1])
    return {'left'}
  end
end
if state == 'suspended' then
  if number(r[8]) > now then return {'left'} end
end
-- A message of it has found a worker: the next one that gets lost is missed as soon as the first.
redis.call('HDEL', record, 'wait')
if now >= deadline then
  redis.call('ZADD', open, 'XX', now + number(ARGV[4]), ARGV[1])
  return {'expired', r[2], r[9]}
end

-- Only a lapsed lease counts as a death, and once: without a holder it has been counted.
local lapses = number(redis.call('HGET', record, 'lapses'))
if state == 'running' and r[3] and r[3] ~= '' and r[3] ~= ARGV[2] then
  lapses = redis.call('HINCRBY', record, 'lapses', 1)
  redis.call('HINCRBY', KEYS[6], 'taken_over', 1)
  redis.call('HSET', record, 'holder', '')
end
if lapses >= number(ARGV[7]) then
  redis.call('ZADD', open, 'XX', now + number(ARGV[4]), ARGV[1])
  return {'poisoned', r[2], r[9]}
end
if lapses >= number(ARGV[6]) then
  -- A suspect runs only while no other one does, so that the one that kills its worker is found.
  local other = redis.call('GET', KEYS[5])
  if other and other ~= ARGV[1] then
    local o = redis.call('HMGET', ARGV[8] .. other, 'state', 'lease')
    if o[1] == 'running' and number(o[2]) > now then
      redis.call('ZADD', open, 'XX', now + 1000, ARGV[1])
      return {'left'}
    end
  end
  redis.call('SET', KEYS[5], ARGV[1], 'PX', 86400000)
end

redis.call('HDEL', record, 'woken')
local lease = math.min(now + lease_ms, deadline + number(ARGV[5]))
redis.call('HSET', record, 'state', 'running', 'holder', ARGV[2], 'lease', lease)
redis.call('ZADD', open, 'XX', lease, ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
-- The furthest turn ever claimed shows which of those waiting have been overtaken.
if number(r[7]) > number(redis.call('HGET', KEYS[4], 'furthest')) then
  redis.call('HSET', KEYS[4], 'furthest', r[7])
end
return {'claimed', r[2], redis.call('HGET', record, 'texts'), deadline - now, r[9]}
