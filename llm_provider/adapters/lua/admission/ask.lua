#!lua flags=allow-oom
-- KEYS breaker pace slots line due ticket
-- ARGV call_id lease_ms max_concurrent(0: any number) requests_per_minute tokens_per_minute(0: no limit) tokens
--   has_turn(0|1) patience_ms chance(0..1) lateness_ms kept_ms
-- -> {obstacle or '', wait_ms, has_turn, is_probe, epoch}
local breaker, slots, line, due, ticket_key = KEYS[1], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local call, lease_ms, max_concurrent = ARGV[1], number(ARGV[2]), number(ARGV[3])
local tokens, has_turn, patience_ms, chance = number(ARGV[6]), number(ARGV[7]), number(ARGV[8]), number(ARGV[9])
local now = now_ms()

local function obstacle(name, wait_ms, turn)
  return {name, math.ceil(wait_ms), turn, 0, ''}
end

-- 1. The breaker. While it is half-open, nobody passes beside the probe that runs.
local b = redis.call('HMGET', breaker, 'until', 'probe', 'probe_until', 'epoch')
local half_open = b[1] and number(b[1]) <= now
if b[1] and not half_open then return obstacle('circuit_open', number(b[1]) - now, has_turn) end
if half_open and b[2] and b[2] ~= call and number(b[3]) > now then
  return obstacle('circuit_open', 750 + 500 * chance, has_turn)
end

-- 2. The rate limits, requests and tokens together or not at all.
local pace = read_pace(KEYS[2], now, number(ARGV[4]), number(ARGV[5]))
local held_ms = math.max(0, pace.hold - now)
local limit = held_ms > 0 and 'vendor_hold' or 'rate_limit'
if has_turn == 0 and (pace.requests or pace.tokens) then
  local wait_ms = held_ms
  local function ask_account(a, cost)
    -- Who takes more than the account ever holds waits until it is full, and leaves it in debt.
    wait_ms = math.max(wait_ms, a.at + (math.min(cost, a.burst) - a.burst) * a.interval - now)
  end
  if pace.requests then ask_account(pace.requests, 1) end
  if pace.tokens then ask_account(pace.tokens, tokens) end
  if wait_ms > patience_ms then return obstacle(limit, wait_ms, 0) end
  if pace.requests then write_pace(pace, 'requests', pace.requests.at + pace.requests.interval) end
  if pace.tokens then write_pace(pace, 'tokens', pace.tokens.at + tokens * pace.tokens.interval) end
  if wait_ms > 0 then return obstacle(limit, wait_ms, 1) end
elseif held_ms > 0 then
  -- Not paced by an account, those who wait are spread over some time behind the hold.
  return obstacle(limit, held_ms + chance * math.min(60000, math.max(1000, held_ms / 5)), has_turn)
end

-- 3. A slot. It goes to whoever asked first, of those who are there: who has not come back in time keeps its ticket,
-- but keeps nobody waiting.
local function take_slot()
  redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)
  if not redis.call('ZSCORE', slots, call) then
    local absent = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, 100)
    if #absent > 0 then
      redis.call('ZREM', due, unpack(absent))
      redis.call('ZREM', line, unpack(absent))
    end
    local ticket = redis.call('GET', ticket_key) or string.format('%.3f', now)
    local before = redis.call('ZCOUNT', line, '-inf', '(' .. ticket)
    local free = max_concurrent - redis.call('ZCARD', slots)
    if before >= free then
      local wait_ms = math.min(1000, 50 + 100 * (before - math.max(0, free)) / max_concurrent)
      redis.call('SET', ticket_key, ticket, 'PX', math.ceil(wait_ms + number(ARGV[11])))
      redis.call('ZADD', line, ticket, call)
      redis.call('ZADD', due, now + wait_ms + number(ARGV[10]), call)
      redis.call('PEXPIRE', line, 60000)
      redis.call('PEXPIRE', due, 60000)
      return wait_ms
    end
    redis.call('ZREM', line, call)
    redis.call('ZREM', due, call)
    redis.call('DEL', ticket_key)
  end
  redis.call('ZADD', slots, now + lease_ms, call)
  redis.call('PEXPIRE', slots, math.ceil(lease_ms) + 1000)
  return 0
end

if max_concurrent > 0 then
  local wait_ms = take_slot()
  if wait_ms > 0 then return obstacle('concurrency', wait_ms, 1) end
end

-- 4. The probe, last, so that only a call that is made takes it.
if half_open then
  redis.call('HSET', breaker, 'probe', call, 'probe_until', now + lease_ms)
end
return {'', 0, 1, half_open and 1 or 0, b[4] or ''}
