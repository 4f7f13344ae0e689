#!lua flags=allow-oom
-- KEYS open waiting sweep memory_full quarantine totals epoch
-- ARGV record_prefix batch lease_ms window_ms redispatch_ms settle_ms overtaken_by queue_is_empty(0|1)
--      longest_redispatch_ms memory_share note_seconds memory_bytes(0: unset) new_epoch known_epoch('': none)
-- -> {action, id, action, id, ...}, {id, what is wrong with its record ('': it is gone), ...}, epoch
local open, waiting, note = KEYS[1], KEYS[2], KEYS[3]
local now, batch, lease_ms = now_ms(), number(ARGV[2]), number(ARGV[3])
local window_ms, redispatch_ms = number(ARGV[4]), number(ARGV[5])
local due, faults = {}, {}

local function take(action, id, until_ms)
  redis.call('ZADD', open, 'XX', until_ms, id)
  due[#due + 1] = action
  due[#due + 1] = id
end

-- Redis's clock has gone back: the ledger's goes on from the last sweep, and whoever holds a lease has time to renew it.
local last = noted(redis.call('HGET', note, 'at'))
if now < last - 1000 then
  redis.call('INCRBY', CLOCK, last - now)
  redis.call('HSET', note, 'pause_until', last + math.floor(lease_ms / 2))
  now = last
end

if not leases_are_judged(note, now, lease_ms) and now >= noted(redis.call('HGET', note, 'pause_until')) then
  redis.call('HSET', note, 'pause_until', now + math.floor(lease_ms / 2))
end
redis.call('HSET', note, 'at', now)
redis.call('EXPIRE', note, 86400)
local pause_until = noted(redis.call('HGET', note, 'pause_until'))

-- Who knew another epoch talks to another memory now: it was flushed, or a replica that had nothing took over.
redis.call('SET', KEYS[7], ARGV[13], 'NX')
local epoch = redis.call('GET', KEYS[7])
if ARGV[14] ~= '' and ARGV[14] ~= epoch and redis.call('HGET', note, 'replaced') ~= ARGV[14] then
  redis.call('HSET', note, 'replaced', ARGV[14])
  redis.call('HINCRBY', KEYS[6], 'replaced', 1)
end

-- The accepting side is told that Redis is near its limit; the note ends by itself when nobody renews it. A user of
-- Redis that may not ask is no reason to end the sweep.
local memory = redis.pcall('INFO', 'memory')
if type(memory) == 'string' then
  local function of(name) return noted(memory:match('\n' .. name .. ':(%d+)')) end
  local used, limit, given = of('used_memory'), of('maxmemory'), number(ARGV[12])
  if limit == 0 then limit = of('total_system_memory') end
  if given > 0 then limit = math.min(given, limit > 0 and limit or given) end
  if limit > 0 and used > limit * ARGV[10] then redis.call('SET', KEYS[4], 1, 'EX', ARGV[11]) end
end

-- Thousands may be due at once, as when a provider answers again: a message that waits for a worker is not lost, and
-- is sent again ever more rarely.
local function wait_longer(id, last_wait_ms)
  local wait_ms = math.max(redispatch_ms, math.min(2 * last_wait_ms, number(ARGV[9])))
  redis.call('HSET', ARGV[1] .. id, 'wait', wait_ms)
  return wait_ms
end

-- At the deadline its caller is told all the same.
local function dispatch(id, last_wait_ms, deadline)
  take('dispatch', id, math.min(now + wait_longer(id, last_wait_ms), deadline))
end

local function look_at_running(id, lease, last_wait_ms, deadline)
  if lease > now then
    redis.call('ZADD', open, 'XX', lease, id)
  elseif now < pause_until then
    redis.call('ZADD', open, 'XX', pause_until, id)
  elseif now >= deadline then
    take('expire', id, now + window_ms)
  else
    dispatch(id, last_wait_ms, deadline)
  end
end

local function look_at_suspended(id, due_ms, last_wait_ms, deadline)
  if due_ms > now then
    redis.call('ZADD', open, 'XX', due_ms, id)
  else
    dispatch(id, last_wait_ms, deadline)
  end
end

-- Of a state that a newer version knows: left to that one, ever more rarely.
local function pass_over(id, last_wait_ms, deadline)
  if now > deadline + LEFT_TO_NEWER_MS then error({err = 'DAMAGED it is in a state that only a newer version knows'}) end
  redis.call('ZADD', open, 'XX', now + wait_longer(id, last_wait_ms), id)
end

local function look_at(id)
  local r = redis.call('HMGET', ARGV[1] .. id, 'state', 'deadline', 'lease', 'due', 'wait')
  local state = r[1]
  -- Of what is decided the times before do not matter any more.
  local deadline = state == 'decided' and 0 or number(r[2])
  if state == 'delivered' or state == 'dead' then
    redis.call('ZREM', open, id)
    redis.call('ZREM', waiting, id)
  elseif not state then
    error({err = 'DAMAGED its state is missing'})
  elseif state == 'decided' then
    take('deliver', id, now + window_ms)
  elseif not IS_UNDECIDED[state] then
    pass_over(id, number(r[5]), deadline)
  elseif state == 'running' then
    look_at_running(id, number(r[3]), number(r[5]), deadline)
  elseif now >= deadline then
    take('expire', id, now + window_ms)
  elseif state == 'suspended' then
    look_at_suspended(id, number(r[4]), number(r[5]), deadline)
  else
    redis.call('ZADD', open, 'XX', deadline, id)
  end
end

-- The head of those waiting: a message that later acceptances have overtaken by far, or that is not there although
-- the queue is empty, got lost. It is dispatched again, ever more rarely while its new message may be in the queue.
local function look_for_message(id)
  local record = ARGV[1] .. id
  local r = redis.call('HMGET', record, 'accepted', 'redispatched', 'wait')
  if not r[1] then
    redis.call('ZREM', waiting, id)
  elseif now >= number(r[1]) + number(ARGV[6]) and now >= number(r[2]) + math.max(redispatch_ms, number(r[3])) then
    redis.call('HSET', record, 'redispatched', now)
    if ARGV[8] == '0' then wait_longer(id, number(r[3])) end
    due[#due + 1] = 'dispatch'
    due[#due + 1] = id
  end
end

-- A record that cannot be read costs nobody else a step.
local function guarded(look, id)
  local is_well, fault = pcall(look, id)
  if is_well then return end
  local reason = reason_of(fault)
  if redis.call('EXISTS', ARGV[1] .. id) == 1 then
    set_aside(id, ARGV[1] .. id, open, waiting, KEYS[5], reason)
  else
    redis.call('ZREM', open, id)
    redis.call('ZREM', waiting, id)
    redis.call('HINCRBY', KEYS[6], 'lost', 1)
    reason = ''
  end
  faults[#faults + 1] = id
  faults[#faults + 1] = reason
end

-- No look is meant for so late: somebody has written that time.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', open, 1e15, '+inf', 'LIMIT', 0, batch)) do
  redis.call('ZADD', open, now, id)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', open, '-inf', now, 'LIMIT', 0, batch)) do
  guarded(look_at, id)
end

local furthest = noted(redis.call('HGET', note, 'furthest'))
local head = redis.call('ZRANGE', waiting, 0, batch - 1, 'WITHSCORES')
for i = 1, #head, 2 do
  local overtaken = tonumber(head[i + 1]) + number(ARGV[7]) < furthest
  if not overtaken and ARGV[8] == '0' then break end
  guarded(look_for_message, head[i])
end
return {due, faults, epoch}
