#!lua flags=allow-oom
-- KEYS record open waiting sweep suspects totals suspects-allowed suspects-next
-- ARGV id holder lease_ms window_ms margin_ms suspect_after poisoned_after record_prefix
-- -> {'claimed', request, texts, ms_left, progress or nil} | {'expired', request, progress or nil}
--    | {'poisoned', request, progress or nil} | {'decided', request, outcome} | {'left'}
local MOST_SUSPECTS, LONGEST_LOOK_MS = 8, 4000
local record, open = KEYS[1], KEYS[2]
local now, lease_ms = now_ms(), number(ARGV[3])
local r = redis.call('HMGET', record, 'state', 'request', 'holder', 'lease', 'deadline', 'outcome', 'turn',
  'due', 'progress', 'company')
local state = r[1]

if not state or state == 'delivered' or state == 'dead' then return {'left'} end
if state == 'decided' then
  -- Within its delivery window somebody else is delivering it.
  if number(redis.call('ZSCORE', open, ARGV[1])) > now then return {'left'} end
  redis.call('ZADD', open, 'XX', now + number(ARGV[4]), ARGV[1])
  return {'decided', r[2], r[6]}
end
-- A newer version knows what this means.
if not IS_UNDECIDED[state] then return {'left'} end
local deadline = number(r[5])
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

-- Only a lapsed lease counts as a death, and once: without a holder it has been counted. Of suspects that died beside
-- others any may have been the one that kills: each is in doubt, and runs alone the next time.
local lapses, is_in_doubt = number(redis.call('HGET', record, 'lapses')), r[10] == 'doubt'
if state == 'running' and r[3] and r[3] ~= '' and r[3] ~= ARGV[2] then
  is_in_doubt = r[10] == 'beside'
  if is_in_doubt then
    redis.call('HSET', record, 'company', 'doubt')
  else
    lapses = redis.call('HINCRBY', record, 'lapses', 1)
  end
  redis.call('HINCRBY', KEYS[6], 'taken_over', 1)
  redis.call('HSET', record, 'holder', '')
end
if lapses >= number(ARGV[7]) then
  redis.call('ZADD', open, 'XX', now + number(ARGV[4]), ARGV[1])
  return {'poisoned', r[2], r[9]}
end

-- Suspects start slowly: one at first, twice as many with each that ends without a death, and one again after a death.
-- How many run, and how many may. Nobody notes an end: whoever asks next finds it.
local function count_suspects()
  local running, allowed, one_died = 0, noted(redis.call('GET', KEYS[7]) or 1), false
  for _, id in ipairs(redis.call('SMEMBERS', KEYS[5])) do
    local s = redis.pcall('HMGET', ARGV[8] .. id, 'state', 'lease')
    if s[1] == 'running' and (noted(s[2]) > now or not leases_are_judged(KEYS[4], now, lease_ms)) then
      running = running + 1
    else
      redis.call('SREM', KEYS[5], id)
      one_died = one_died or s[1] == 'running'
      allowed = math.min(2 * allowed, MOST_SUSPECTS)
    end
  end
  return running, one_died and 1 or allowed
end

if lapses >= number(ARGV[6]) and r[3] ~= ARGV[2] then
  local running, allowed = count_suspects()
  -- Who is in doubt goes before the others, as soon as those that run have ended.
  local first = redis.call('GET', KEYS[8])
  local is_first = not first or first == ARGV[1]
  if running >= (is_in_doubt and 1 or allowed) or not is_first then
    if is_in_doubt and is_first then redis.call('SET', KEYS[8], ARGV[1], 'PX', 3000) end
    redis.call('SET', KEYS[7], allowed, 'PX', 60000)
    -- It looks again ever more rarely, and not together with those that came at the same time.
    local looks = is_in_doubt and 0 or redis.call('HINCRBY', record, 'looks', 1)
    local wait_ms = math.min(1000 * 2 ^ looks, LONGEST_LOOK_MS) * (8 + number(r[7]) % 8) / 16
    redis.call('ZADD', open, 'XX', now + math.floor(wait_ms), ARGV[1])
    return {'left'}
  end
  local runs_alone = is_in_doubt or allowed == 1
  redis.call('DEL', KEYS[8])
  redis.call('SET', KEYS[7], runs_alone and 1 or allowed, 'PX', 60000)
  redis.call('SADD', KEYS[5], ARGV[1])
  redis.call('PEXPIRE', KEYS[5], 86400000)
  redis.call('HSET', record, 'company', runs_alone and 'none' or 'beside')
end

redis.call('HDEL', record, 'woken', 'looks')
local lease = math.min(now + lease_ms, deadline + number(ARGV[5]))
redis.call('HSET', record, 'state', 'running', 'holder', ARGV[2], 'lease', lease)
redis.call('ZADD', open, 'XX', lease, ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
-- The furthest turn ever claimed shows which of those waiting have been overtaken.
if number(r[7]) > noted(redis.call('HGET', KEYS[4], 'furthest')) then
  redis.call('HSET', KEYS[4], 'furthest', r[7])
end
return {'claimed', r[2], redis.call('HGET', record, 'texts'), deadline - now, r[9]}
