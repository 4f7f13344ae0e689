#!lua flags=allow-oom
-- KEYS breaker slots line due asleep invited flow unheard pace held slowed ticket paced
-- ARGV call_id health epoch('?': not known) is_probe(0|1) failures open_ms successes
--   requests_per_minute tokens_per_minute(0: no limit) tokens_beyond_estimate hold_ms max_concurrent(0: any number)
--   model turned_away(0|1) admitted_at
-- -> {whether the vendor has granted calls to the model lately (0|1), who may come now ...}
local p, pace_key, held, slowed, ticket, paced = provider_keys(), unpack(KEYS, 9)
local call, health, limit = ARGV[1], ARGV[2], number(ARGV[12])
local now, open_ms = now_ms(), number(ARGV[6])

redis.call('ZREM', p.slots, call)
leave_line(p, call)

local b = redis.call('HMGET', p.breaker, 'until', 'probe', 'epoch', 'goods', 'failures')
local kept_ms = math.ceil(open_ms) + 3600000

local function note(...)
  redis.call('HSET', p.breaker, ...)
  redis.call('PEXPIRE', p.breaker, kept_ms)
end

local function count_failure(always_opens)
  local failures = number(b[5]) + 1
  note('failures', failures)
  if always_opens or failures >= number(ARGV[5]) then
    -- The epoch tells the results of calls that began before this moment from those of later ones.
    note('until', now + open_ms, 'epoch', string.format('%.3f', now))
    redis.call('HDEL', p.breaker, 'goods', 'probe', 'probe_until')
    -- Who waits for it comes slowly first when it has closed.
    redis.call('DEL', p.flow)
    redis.call('HSET', p.flow, 'left', 0)
    redis.call('PEXPIRE', p.flow, math.ceil(open_ms) + FLOW_KEPT_MS)
  end
end

local function count_good_probe()
  if number(b[4]) + 1 >= number(ARGV[7]) then
    redis.call('HDEL', p.breaker, 'until', 'goods', 'failures')
  else
    note('goods', number(b[4]) + 1)
  end
end

if b[2] == call then
  redis.call('HDEL', p.breaker, 'probe', 'probe_until')
  if health == 'good' then count_good_probe() end
  if health == 'bad' then count_failure(true) end
elseif not b[1] and ARGV[4] == '0' and (ARGV[3] == '?' or ARGV[3] == (b[3] or '')) then
  if health == 'bad' then count_failure(false) end
  if health == 'good' and b[5] then redis.call('HDEL', p.breaker, 'failures') end
end

local is_granting, invited = 0, invite_next(p, now, limit, {})
local beyond, hold_ms, turned_away = number(ARGV[10]), number(ARGV[11]), ARGV[14] == '1'
if turned_away or health == 'bad' then
  -- Should it come back, then to where it stood.
  local admitted_at = number(ARGV[15]) > 0 and ARGV[15] or string.format('%.3f', now)
  redis.call('SET', ticket, admitted_at, 'NX', 'PX', TICKET_KEPT_MS)
else
  redis.call('DEL', ticket)
end
if (beyond ~= 0 and ARGV[9] ~= '0') or hold_ms > 0 or turned_away
    or redis.call('EXISTS', pace_key, paced) > 0 then
  local pace = read_pace(pace_key, now, number(ARGV[8]), number(ARGV[9]))

  if health == 'good' and pace.slow_since then
    pace.granted = now
    write_pace(pace, 'granted', now, now + SLOW_KEPT_MS)
  end
  if pace.granted > now - GRANTING_MS then is_granting = 1 end
  -- Calls that began before the last refusal tell nothing new.
  if turned_away and number(ARGV[15]) > number(pace.slow_since) then
    if pace.slow_since then
      local rate = learned_rate(pace)
      -- Refused before it was back where the last one was: the vendor grants less than then.
      pace.refused_rate = rate < pace.refused_rate and rate * (1 - BACK_OFF / 2) or rate
    end
    pace.slow_since, pace.calling_ms, pace.last_call = now, 0, now
    pace.next_call = now + learned_interval(pace)
    for _, field in ipairs({'slow_since', 'refused_rate', 'calling_ms', 'last_call', 'next_call'}) do
      write_pace(pace, field, pace[field], now + SLOW_KEPT_MS)
    end
    redis.call('HSET', slowed, ARGV[13], learned_interval(pace))
    keep(slowed, SLOW_KEPT_MS)
  end

  local a = pace.tokens
  if a and beyond ~= 0 then
    a.at = math.max(now, a.at + beyond * a.interval)
    a.passed = math.max(now, a.passed + beyond * a.interval)
    write_pace(pace, 'tokens_at', a.at, a.at)
    write_pace(pace, 'tokens_passed', a.passed, a.passed)
  end

  if hold_ms > 0 and now + hold_ms > pace.hold then
    local hold = now + hold_ms
    pace.hold = hold
    write_pace(pace, 'hold', hold, hold)
    -- The list of what is held, for whoever looks.
    redis.call('ZREMRANGEBYSCORE', held, '-inf', now)
    redis.call('ZADD', held, hold, ARGV[13])
    keep(held, hold_ms + 1000)
    -- The first turn comes when the hold ends, and those behind it at the pace of the limit.
    for _, each in ipairs(pace.accounts) do
      local first = hold + (each.burst - 1) * each.interval
      write_pace(pace, each.name .. '_at', math.max(each.at, first), math.max(each.at, first))
      write_pace(pace, each.name .. '_passed', math.max(each.passed, first), math.max(each.passed, first))
    end
  end
  invite_paced(p, now, pace, paced, invited)
end
return {is_granting, unpack(invited)}
