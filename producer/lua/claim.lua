-- Takes a unit for one worker: a lease that must be renewed, and a fence that makes every older holder's writes harmless.
-- ARGV: id, unit, first page, page count (0 for "prepare"), worker, lease (ms), TTL of a final job (s), error of an
--       expired job (JSON), token of this claim: asked again with the same one, a claim that stands is told again
-- Returns {'gone'} no such job or unit; {'final'}; {'held'} by a worker that nobody has found dead; {'done'} every page has an outcome;
--         {'claimed', fence, record, deadline (ms from now), lane, page...}

-- The time between claims of the lane, on average over the last 64 before which others waited: how long each unit in its
-- queue waits for the one before it.
local function keep_pace(lane, now)
  local pace = redis.call('HMGET', PACE, lane .. ':last', lane .. ':crowded', lane .. ':mean', lane .. ':count')
  if pace[2] == '1' then
    local gap = math.min(math.max(now - pace[1], 0), 60000)
    local count = math.min((tonumber(pace[4]) or 0) + 1, 64)
    local mean = tonumber(pace[3]) or 0
    mean = mean + (gap - mean) / count
    redis.call('HSET', PACE, lane .. ':mean', string.format('%.3f', mean), lane .. ':count', count)
  end
  local crowded = redis.call('ZCARD', waiting_key(lane)) > 0 and 1 or 0
  redis.call('HSET', PACE, lane .. ':last', now, lane .. ':crowded', crowded)
end

local id, unit, now = ARGV[1], ARGV[2], now_ms()
local member = id .. ' ' .. unit
whole(3, 0); whole(4, 0, 1000); whole(6, 1); whole(7, 0)
if not (ARGV[8] and ARGV[9]) then error('arguments are missing') end
local v = redis.call('HMGET', job_key(id), 'state', 'record', 'deadline')
if not v[1] then return { 'gone' } end
if FINAL[v[1]] then return { 'final' } end
if tonumber(v[3]) <= now then
  finalise(id, 'expired', ARGV[8], tonumber(ARGV[7]), now)
  return { 'final' }
end
local lane = redis.call('HGET', spans_key(id), unit .. ':lane')
if not lane then return { 'gone' } end
-- A lease that has lapsed stands until the sweep has counted the death.
local held = redis.call('ZSCORE', LEASES, member)
if held and redis.call('HGET', spans_key(id), unit .. ':token') ~= ARGV[9] then return { 'held' } end
if lane == 'quarantine' and (redis.call('GET', QUARANTINED) or member) ~= member then return { 'held' } end
local todo = {}
for page = tonumber(ARGV[3]), ARGV[3] + ARGV[4] - 1 do
  if redis.call('HEXISTS', pages_key(id), page) == 0 then todo[#todo + 1] = page end
end
-- The answer to this very claim was lost on its way.
if held then
  redis.call('ZADD', LEASES, now + ARGV[6], member)
  local standing = tonumber(redis.call('HGET', spans_key(id), unit .. ':fence'))
  return { 'claimed', standing, v[2], tonumber(v[3]) - now, lane, unpack(todo) }
end
-- How far the lane's queue has come: what was published long before this and is not claimed was lost.
local published = redis.call('ZSCORE', waiting_key(lane), member)
if published then
  local frontier = tonumber(redis.call('HGET', FRONTIER, lane) or 0)
  redis.call('HSET', FRONTIER, lane, math.max(frontier, tonumber(published)))
end
forget(id, unit)
if published then keep_pace(lane, now) end
if #todo == 0 and unit ~= 'prepare' then return { 'done' } end
if lane == 'quarantine' then redis.call('SET', QUARANTINED, member, 'PX', ARGV[6]) end
local fence = next_fence(id, now)
redis.call('HSET', spans_key(id), unit .. ':fence', fence, unit .. ':worker', ARGV[5], unit .. ':token', ARGV[9])
redis.call('ZADD', LEASES, now + ARGV[6], member)
local known = redis.call('GET', ns .. ':worker:' .. ARGV[5])
note(id, { what = 'claimed', unit = unit, worker = ARGV[5], device = known and cjson.decode(known).device or nil }, now)
if v[1] == 'queued' then
  set_state(id, 'running')
  redis.call('HSET', job_key(id), 'started', now)
  redis.call('SADD', RUNNING, id)
  publish_event(id)
end
return { 'claimed', fence, v[2], tonumber(v[3]) - now, lane, unpack(todo) }
