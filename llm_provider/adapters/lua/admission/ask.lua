#!lua flags=allow-oom
-- KEYS breaker slots line due asleep invited flow unheard pace ticket paced models slowed
-- ARGV call_id lease_ms max_concurrent(0: any number) requests_per_minute tokens_per_minute(0: no limit) tokens
--   turn(0: none|1: reserved|2: late for it) patience_ms chance(0..1) can_sleep(0|1) model
-- -> {obstacle or '', wait_ms, turn, is_probe, epoch, now, sleeps(0|1), who may come now ...}
local p, pace_key, ticket_key, paced, models, slowed = provider_keys(), unpack(KEYS, 9)
local call, lease_ms, limit, model = ARGV[1], number(ARGV[2]), number(ARGV[3]), ARGV[11]
local tokens, turn, patience_ms, chance = number(ARGV[6]), number(ARGV[7]), number(ARGV[8]), number(ARGV[9])
local can_sleep = ARGV[10] == '1'
local now, invited = now_ms(), {}

local function obstacle(name, wait_ms, sleeps)
  return {name, math.ceil(wait_ms), turn, 0, '', tostring(now), sleeps and 1 or 0, unpack(invited)}
end

local function ticket()
  return redis.call('ZSCORE', p.line, call) or redis.call('GET', ticket_key) or string.format('%.3f', now)
end

-- However often it asks, it stands where it stood when it first did.
local function keep_ticket(wait_ms)
  local mine = ticket()
  redis.call('SET', ticket_key, mine, 'PX', math.ceil(TICKET_KEPT_MS + wait_ms))
  return mine
end

-- Who has to wait for something else than its place keeps nobody else from it.
local function step_aside(name, wait_ms, sleeps)
  for _, key in ipairs({p.line, p.slots, p.invited}) do
    if redis.call('ZSCORE', key, call) then
      keep_ticket(wait_ms)
      leave_line(p, call)
      redis.call('ZREM', p.slots, call)
      invite_next(p, now, limit, invited)
      break
    end
  end
  return obstacle(name, wait_ms, sleeps)
end

-- A little longer than it may wait.
local function keep_for_patience(key)
  keep(key, patience_ms + 60000)
end

local function lie_down()
  redis.call('ZADD', p.asleep, now + patience_ms, call)
  keep_for_patience(p.asleep)
end

local function stand()
  local mine = keep_ticket(patience_ms)
  leave_line(p, call)
  redis.call('ZREM', paced, call)
  redis.call('ZADD', p.line, mine, call)
  keep_for_patience(p.line)
end

-- It will be invited. Should that get lost, it looks again after a while; all who wait do so now and then, not at once.
local function sleep()
  stand()
  lie_down()
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
elseif held_ms > 0 and not pace.slow_since then
  -- Not paced by anything, those who wait are spread over some time behind the hold.
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

-- What was learned is a guess, which changes with every call: it gives no turns in advance, but invites those who sleep.
local function wait_for_learned_pace()
  -- Its own place is not given to others: it is there.
  redis.call('ZREM', paced, call)
  invite_paced(p, now, pace, paced, invited)
  local free_at = math.max(pace.next_call, pace.hold)
  local before = redis.call('ZCOUNT', paced, '-inf', '(' .. ticket())
  if free_at <= now and before == 0 then return nil end
  if free_at - now >= patience_ms then return step_aside('vendor_hold', free_at - now) end
  local wait_ms = math.max(free_at, pace.awake_until) - now
  if before == 0 and wait_ms < AWAKE_MS then
    local until_ms = now + wait_ms + learned_interval(pace)
    write_pace(pace, 'awake_until', until_ms, until_ms)
    keep_ticket(wait_ms)
    redis.call('ZREM', p.asleep, call)
    return step_aside('vendor_hold', wait_ms)
  end
  if not can_sleep then
    return step_aside('vendor_hold', math.max(wait_ms, LEARNED_WAIT_MS * (1 + chance) / 2))
  end
  local told = step_aside('vendor_hold', 0, true)
  redis.call('ZADD', paced, keep_ticket(patience_ms), call)
  redis.call('SADD', models, model)
  keep_for_patience(paced)
  keep_for_patience(models)
  lie_down()
  wait_ms = math.max(free_at - now, 0) + LOOK_AGAIN_MS + LOOK_AGAIN_EACH_MS * redis.call('ZRANK', paced, call)
  told[2] = math.ceil(wait_ms)
  return told
end

local function count_for_learned_pace()
  -- Time in which nobody calls tells nothing.
  pace.calling_ms = pace.calling_ms + math.min(now - pace.last_call, 2 * learned_interval(pace))
  pace.last_call = now
  pace.next_call = math.max(pace.next_call, now - CAUGHT_UP_MS) + learned_interval(pace)
  if learned_rate(pace) > FASTEST_RATE then
    redis.call('HDEL', pace_key, 'slow_since', 'refused_rate', 'calling_ms', 'last_call', 'next_call', 'awake_until',
      'invited_until')
    redis.call('HDEL', slowed, model)
    return
  end
  for _, field in ipairs({'calling_ms', 'last_call', 'next_call'}) do
    write_pace(pace, field, pace[field], now + SLOW_KEPT_MS)
  end
  redis.call('HSET', slowed, model, learned_interval(pace))
  keep(slowed, SLOW_KEPT_MS)
end

if pace.slow_since then
  local told = wait_for_learned_pace()
  if told then return told end
end

-- 3. A slot. It goes to whoever asked first, of those who are there or can be invited.
local function places_for_others()
  if half_open then return 0 end
  local mine = ticket()
  if number(redis.call('GET', p.unheard)) > now then
    local before = 0
    for _, awake in ipairs(redis.call('ZRANGE', p.due, 0, -1)) do
      if number(redis.call('ZSCORE', p.line, awake)) < tonumber(mine) then before = before + 1 end
    end
    return before
  end
  if redis.call('ZSCORE', p.invited, call) then return 0 end
  return redis.call('ZCOUNT', p.line, '-inf', '(' .. mine) + redis.call('ZCARD', p.invited)
end

if limit > 0 then
  forget_absent(p, now)
  if not redis.call('ZSCORE', p.slots, call) then
    local free, before = limit - redis.call('ZCARD', p.slots), places_for_others()
    if before >= free then
      turn = math.max(turn, 1)
      if can_sleep then
        local wait_ms = sleep()
        invite_next(p, now, limit, invited)
        return obstacle('concurrency', wait_ms, true)
      end
      local wait_ms = math.min(1000, 50 + 100 * (before - math.max(0, free)) / limit)
      stand()
      redis.call('ZADD', p.due, now + wait_ms + LATENESS_MS, call)
      keep(p.due, wait_ms + LATENESS_MS + 60000)
      invite_next(p, now, limit, invited)
      return obstacle('concurrency', wait_ms, false)
    end
  end
  redis.call('ZADD', p.slots, now + lease_ms, call)
  keep(p.slots, lease_ms + 1000)
end

-- 4. It is made: from here on it counts, and who is the probe is the only one.
leave_line(p, call)
charge('passed')
if pace.slow_since then count_for_learned_pace() end
if half_open then
  redis.call('HSET', p.breaker, 'probe', call, 'probe_until', now + lease_ms)
elseif limit > 0 then
  invite_next(p, now, limit, invited)
end
return {'', 0, 1, half_open and 1 or 0, b[4] or '', tostring(now), 0, unpack(invited)}
