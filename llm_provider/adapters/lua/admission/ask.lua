#!lua flags=allow-oom
-- KEYS breaker slots line due asleep offers flow pace ticket
-- ARGV call_id lease_ms max_concurrent(0: any number) requests_per_minute tokens_per_minute(0: no limit) tokens
--   turn(0: none|1: reserved|2: late for it) patience_ms chance(0..1) can_sleep(0|1)
-- -> {obstacle or '', wait_ms, turn, is_probe, epoch, now, sleeps(0|1), who may come now ...}
local p, pace_key, ticket_key = provider_keys(), KEYS[8], KEYS[9]
local call, lease_ms, limit = ARGV[1], number(ARGV[2]), number(ARGV[3])
local tokens, turn, patience_ms, chance = number(ARGV[6]), number(ARGV[7]), number(ARGV[8]), number(ARGV[9])
local can_sleep = ARGV[10] == '1'
local now = now_ms()

local function obstacle(name, wait_ms, sleeps, called)
  return {name, math.ceil(wait_ms), turn, 0, '', tostring(now), sleeps and 1 or 0, unpack(called or {})}
end

local function ticket()
  return redis.call('ZSCORE', p.line, call) or redis.call('GET', ticket_key) or string.format('%.3f', now)
end

-- Who has to wait for something else than its place keeps nobody else from it.
local function step_aside(name, wait_ms)
  local mine, called = ticket(), {}
  if redis.call('ZSCORE', p.line, call) or redis.call('ZSCORE', p.slots, call) then
    redis.call('SET', ticket_key, mine, 'PX', math.ceil(TICKET_KEPT_MS + wait_ms))
    leave_line(p, call)
    redis.call('ZREM', p.slots, call)
    called = call_next(p, now, limit)
  end
  return obstacle(name, wait_ms, false, called)
end

-- In the line it stands by when it first asked, however often it asks again.
local function stand(key, until_ms)
  local mine = ticket()
  leave_line(p, call)
  redis.call('SET', ticket_key, mine, 'PX', TICKET_KEPT_MS)
  redis.call('ZADD', p.line, mine, call)
  redis.call('ZADD', key, until_ms, call)
  keep(p.line, until_ms - now + 60000)
  keep(key, until_ms - now + 60000)
end

-- It will be called. Should that get lost, it looks again after a while; all who wait do so now and then, not at once.
local function sleep()
  stand(p.asleep, now + patience_ms)
  return LOOK_AGAIN_MS + LOOK_AGAIN_EACH_MS * redis.call('ZRANK', p.line, call)
end

-- 1. The breaker. While it is half-open, nobody passes beside the probe that runs.
local b = redis.call('HMGET', p.breaker, 'until', 'probe', 'probe_until', 'epoch')
local half_open = b[1] and number(b[1]) <= now
if b[1] and not half_open then
  local wait_ms = number(b[1]) - now
  if can_sleep and wait_ms < patience_ms then return obstacle('circuit_open', wait_ms + sleep(), true) end
  return obstacle('circuit_open', wait_ms)
end
if half_open and b[2] and b[2] ~= call and number(b[3]) > now then
  if can_sleep then return obstacle('circuit_open', sleep(), true) end
  return obstacle('circuit_open', 750 + 500 * chance)
end

-- 2. The rate limits, requests and tokens together or not at all.
local pace = read_pace(pace_key, now, number(ARGV[4]), number(ARGV[5]))
local held_ms = math.max(0, pace.hold - now)
local whose_limit = held_ms > 0 and 'vendor_hold' or 'rate_limit'

local function cost_of(a)
  return a.name == 'tokens' and tokens or 1
end

-- Who takes more than the account ever holds waits until it is full, and leaves it in debt.
local function longest_wait(field, wait_ms)
  for _, a in ipairs(pace.accounts) do
    wait_ms = math.max(wait_ms, a[field] + (math.min(cost_of(a), a.burst) - a.burst) * a.interval - now)
  end
  return wait_ms
end

local function charge(field)
  for _, a in ipairs(pace.accounts) do
    a[field] = a[field] + cost_of(a) * a.interval
    write_pace(pace, a.name .. '_' .. field, a[field], a[field])
  end
end

if turn == 0 and #pace.accounts > 0 then
  local wait_ms = longest_wait('at', held_ms)
  if wait_ms > patience_ms then return step_aside(whose_limit, wait_ms) end
  charge('at')
  turn = 1
  if wait_ms > 0 then return step_aside(whose_limit, wait_ms) end
elseif held_ms > 0 then
  -- Not paced by an account, those who wait are spread over some time behind the hold.
  return step_aside(whose_limit, held_ms + chance * math.min(60000, math.max(1000, held_ms / 5)))
end
if #pace.accounts > 0 then
  -- A turn is for a time. When many come late, because their provider was left alone or their workers were dead, they
  -- pass one after the other all the same, and who comes on time meanwhile stands behind them.
  local wait_ms = longest_wait('passed', 0)
  if turn == 1 then
    for _, a in ipairs(pace.accounts) do wait_ms = math.max(wait_ms, a.late - now) end
    if wait_ms > 0 then
      charge('late')
      turn = 2
    end
  end
  if wait_ms > 0 then return step_aside(whose_limit, wait_ms) end
end
-- A pace that was learned is a guess, which changes with each call that is granted: it gives no turns in advance. Who
-- does not pass looks again one after the other, but soon.
if pace.slow > 0 and pace.learned_passed > now then
  local wait_ms = math.max(pace.learned_passed, pace.learned_late) - now
  if wait_ms < LEARNED_WAIT_MS then
    write_pace(pace, 'learned_late', now + wait_ms + pace.slow, now + wait_ms + pace.slow)
  else
    wait_ms = LEARNED_WAIT_MS * (1 + chance) / 2
  end
  return step_aside('vendor_hold', wait_ms)
end

-- 3. A slot. It goes to whoever asked first, of those who are there or can be called.
local called = {}
if limit > 0 then
  forget_absent(p, now)
  if not redis.call('ZSCORE', p.slots, call) then
    local free = limit - redis.call('ZCARD', p.slots)
    local before = half_open and 0 or redis.call('ZCOUNT', p.line, '-inf', '(' .. ticket())
    if before >= free then
      turn = math.max(turn, 1)
      if can_sleep then
        local wait_ms = sleep()
        return obstacle('concurrency', wait_ms, true, call_next(p, now, limit))
      end
      local wait_ms = math.min(1000, 50 + 100 * (before - math.max(0, free)) / limit)
      stand(p.due, now + wait_ms + LATENESS_MS)
      return obstacle('concurrency', wait_ms, false, call_next(p, now, limit))
    end
  end
  redis.call('ZADD', p.slots, now + lease_ms, call)
  keep(p.slots, lease_ms + 1000)
end

-- 4. It is made: from here on it counts, and who is the probe is the only one.
leave_line(p, call)
redis.call('DEL', ticket_key)
charge('passed')
if pace.slow > 0 then write_pace(pace, 'learned_passed', now + pace.slow, now + pace.slow) end
if half_open then
  redis.call('HSET', p.breaker, 'probe', call, 'probe_until', now + lease_ms)
elseif limit > 0 then
  called = call_next(p, now, limit)
end
return {'', 0, 1, half_open and 1 or 0, b[4] or '', tostring(now), 0, unpack(called)}
