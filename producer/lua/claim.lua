-- Takes a unit for one worker: a lease that must be renewed, and a fence that makes every older holder's writes harmless.
-- ARGV: id, unit, lane, worker, lease (ms), TTL of a final job (s), error of an expired job (JSON), token of this claim:
--       asked again with the same one, a claim that stands is told again
-- With a lane, the unit is the one whose turn it is there: tenants take turns, a page each. The one that was named is
-- taken if none waits, or without a lane.
-- Returns {'gone'} no such job or unit; {'final'}; {'held'} by a worker that nobody has found dead; {'done'} every page has an outcome;
--         {'claimed', fence, record, deadline (ms from now), lane, unit, page...}
local turn, worker, token, now = ARGV[3], ARGV[4], ARGV[8], now_ms()
if not token then error('arguments are missing') end
local lease, ttl = whole(5, 1), whole(6, 0)
if turn ~= '' then check_lane(turn) end

-- The time between claims of the lane, on average over the last 64 before which others waited: how long each unit in its
-- queue waits for the one before it.
local function keep_flow(lane)
  local flow = redis.call('HMGET', FLOW, lane .. ':last', lane .. ':crowded', lane .. ':mean', lane .. ':count')
  if flow[2] == '1' then
    local gap = math.min(math.max(now - flow[1], 0), 60000)
    local count = math.min((tonumber(flow[4]) or 0) + 1, 64)
    local mean = tonumber(flow[3]) or 0
    mean = mean + (gap - mean) / count
    redis.call('HSET', FLOW, lane .. ':mean', string.format('%.3f', mean), lane .. ':count', count)
  end
  redis.call('HSET', FLOW, lane .. ':last', now, lane .. ':crowded', next_in_turn(lane) and 1 or 0)
end

local function claim(id, unit)
  local member = id .. ' ' .. unit
  local v = redis.call('HMGET', job_key(id), 'state', 'record', 'deadline')
  if not v[1] then return { 'gone' } end
  if FINAL[v[1]] then return { 'final' } end
  if tonumber(v[3]) <= now then
    finalise(id, 'expired', ARGV[7], ttl, now)
    return { 'final' }
  end
  local lane = redis.call('HGET', spans_key(id), unit .. ':lane')
  if not lane then return { 'gone' } end
  -- A lease that has lapsed stands until the sweep has counted the death.
  local held = redis.call('ZSCORE', LEASES, member)
  if held and redis.call('HGET', spans_key(id), unit .. ':token') ~= token then return { 'held' } end
  if lane == 'quarantine' and (redis.call('GET', QUARANTINED) or member) ~= member then return { 'held' } end
  local todo = pages_left(id, unit)
  -- The answer to this very claim was lost on its way.
  if held then
    redis.call('ZADD', LEASES, now + lease, member)
    local standing = tonumber(redis.call('HGET', spans_key(id), unit .. ':fence'))
    return { 'claimed', standing, v[2], tonumber(v[3]) - now, lane, unit, unpack(todo) }
  end
  if #todo == 0 and unit ~= 'prepare' then
    forget(id, unit)
    return { 'done' }
  end
  -- Written first: a full Redis refuses it, and the claim with it, but nothing after a write that frees memory.
  local fence = next_fence(id, now)
  forget(id, unit)
  if lane == 'quarantine' then redis.call('SET', QUARANTINED, member, 'PX', lease) end
  redis.call('HSET', spans_key(id), unit .. ':fence', fence, unit .. ':worker', worker, unit .. ':token', token)
  redis.call('ZADD', LEASES, now + lease, member)
  if lane ~= 'quarantine' then keep_flow(lane) end
  local known = redis.call('GET', ns .. ':worker:' .. worker)
  note(id, { what = 'claimed', unit = unit, worker = worker, device = known and cjson.decode(known).device or nil }, now)
  if v[1] == 'queued' then
    set_state(id, 'running')
    redis.call('HSET', job_key(id), 'started', now)
    redis.call('SADD', RUNNING, id)
    publish_event(id)
  end
  return { 'claimed', fence, v[2], tonumber(v[3]) - now, lane, unit, unpack(todo) }
end

if turn == '' then return claim(ARGV[1], ARGV[2]) end
local given = ns .. ':given:' .. token
local known = redis.call('GET', given)
if known then
  local reply = claim(string.match(known, '^(%S+) (.+)$'))
  if reply[1] == 'claimed' then return reply end
end
-- What cannot be claimed does not wait; a script does not go on for long.
for _ = 1, 100 do
  local member, tenant = next_in_turn(turn)
  if not member then break end
  local id, unit = string.match(member, '^(%S+) (.+)$')
  local reply = id and claim(id, unit) or { 'gone' }
  if reply[1] == 'claimed' then
    redis.call('ZINCRBY', turns_key(turn), math.max(1, #reply - 6), tenant)
    redis.call('SET', given, member, 'PX', lease)
    return reply
  end
  redis.call('ZREM', waiting_key(turn, tenant), member)
end
return claim(ARGV[1], ARGV[2])
