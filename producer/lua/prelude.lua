-- Prepended to every script: names of keys, the server's clock, and the one way in which a job becomes final.
-- A script whose first line allows it runs in a full Redis, too: it frees memory, or keeps or ends what was accepted.
-- KEYS[1] is the namespace. A "unit" is what a lease covers: a span such as "1+8", or "prepare".
-- A unit's member in the sorted sets is "<job id> <unit>".

local ns = KEYS[1]
local LEASES, ACTIVE, RUNNING = ns .. ':leases', ns .. ':active', ns .. ':running'
local TOTALS, GARBAGE, EVENTS = ns .. ':totals', ns .. ':garbage', ns .. ':events'
local DEAD = ns .. ':dead'
local OUTBOX, ROWS, DELIVERIES = ns .. ':outbox', ns .. ':rows', ns .. ':deliveries'
-- How fast the pool reads, see sweep.lua, and how fast the queue of each lane moves, see claim.lua.
local SWEEPS, PACE, FLOW = ns .. ':sweeps', ns .. ':pace', ns .. ':flow'
local LOAD, SHARES, TENANTS = ns .. ':load', ns .. ':shares', ns .. ':tenants'
local FINAL = { succeeded = true, partial = true, failed = true, cancelled = true, expired = true }

local function job_key(id) return ns .. ':job:' .. id end
local function spans_key(id) return ns .. ':spans:' .. id end
local function pages_key(id) return ns .. ':pages:' .. id end
local function outcomes_key(id) return ns .. ':outcomes:' .. id end
local function order_key(id) return ns .. ':order:' .. id end
local function timeline_key(id) return ns .. ':timeline:' .. id end
-- A tenant's name has no colon: no batch of one is that of another.
local function batch_key(tenant, name) return ns .. ':batch:' .. tenant .. ':' .. name end
local function delivery_key(id) return ns .. ':delivery:' .. id end
local function idempotency_key(name) return ns .. ':key:' .. name end

local LANES = { 'interactive', 'bulk', 'quarantine' }
-- A lane's units wait tenant by tenant. Each tenant that may have some is in the lane's turns, at the number of
-- pages that it had when its turn comes: it stays until its turn comes and nothing of it waits.
local function waiting_key(lane, tenant) return ns .. ':waiting:' .. lane .. (tenant == '' and '' or ':' .. tenant) end
local function turns_key(lane) return ns .. ':turns:' .. lane end
-- The broker's.
local function queue_key(lane) return ns .. '.' .. lane end
local function tenant_of(id) return redis.call('HGET', job_key(id), 'tenant') or '' end
local STATES = { 'queued', 'running', 'succeeded', 'partial', 'failed', 'cancelled', 'expired' }
-- The jobs of all tenants, as "<job id> <tenant>", and those of each.
local function index_key(state) return ns .. ':index:' .. state end
local function own_index_key(state, tenant) return index_key(state) .. ':' .. tenant end
-- Names the one quarantined unit that is being read in the whole pool.
local QUARANTINED = ns .. ':quarantined'

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Arguments are checked before the first write: a script that fails halfway keeps what it has written.
local function check_whole(value, name, least, most)
  local number = tonumber(value)
  if not number or number ~= math.floor(number) or number < least or number > (most or 1e15) then
    error(name .. ' must be a whole number in range')
  end
  return number
end
local function whole(i, least, most) return check_whole(ARGV[i], 'argument ' .. i, least, most) end
local function pages_of(unit) return string.match(unit, '^([1-9]%d*)%+([1-9]%d*)$') end
local function check_units(units, first)
  if #units < first then error('a job has at least one unit') end
  for i = first, #units do
    local first_page, count = pages_of(units[i])
    if units[i] ~= 'prepare' and not first_page then error('number ' .. i .. ' must be a unit') end
    if first_page then check_whole(count, 'the size of unit ' .. i, 1, 1000) end
  end
end
-- A key of the blob store: the sweeper could not delete any other.
local function check_blob(blob)
  if #blob > 80 or not string.match(blob, '^[%l%d_]+$') then error('a blob is one word') end
end
local function check_lane(lane)
  for _, known in ipairs(LANES) do if lane == known then return end end
  error('there is no such lane')
end

local function check_url(url)
  if not string.match(url, '^https?://[^/?#]+') then error('a webhook goes to a URL') end
end

-- The unit's pages without an outcome; none of "prepare".
local function pages_left(id, unit)
  local left, first, count = {}, pages_of(unit)
  for page = first or 1, first and first + count - 1 or 0 do
    if redis.call('HEXISTS', pages_key(id), page) == 0 then left[#left + 1] = page end
  end
  return left
end

-- Whether the fence is that of the unit's holder. 0 is the fence of a unit that nobody has held.
local function holds(id, unit, fence)
  return fence ~= '0' and redis.call('HGET', spans_key(id), unit .. ':fence') == fence
end

-- What of a job changes while it is there, but for its place in the queue: whoever knew it knows where it stands now.
local function publish_event(id)
  local v = redis.call('HMGET', job_key(id), 'state', 'pages_total', 'pages_done', 'pages_failed', 'cached', 'started',
    'finished', 'error')
  redis.call('PUBLISH', EVENTS, cjson.encode({
    job_id = id,
    state = v[1],
    pages_total = tonumber(v[2]) or cjson.null,
    pages_done = tonumber(v[3]) or 0,
    pages_failed = tonumber(v[4]) or 0,
    cached = v[5] ~= false,
    started = v[6] or cjson.null,
    finished = v[7] or cjson.null,
    error = v[8] or cjson.null,
  }))
end

-- A job is in the indexes of its state alone, by its number, which counts accepted jobs.
local function enter_index(id, tenant, state, number)
  redis.call('ZADD', index_key(state), number, id .. ' ' .. tenant)
  redis.call('ZADD', own_index_key(state, tenant), number, id)
end
local function leave_index(id, tenant, state)
  redis.call('ZREM', index_key(state), id .. ' ' .. tenant)
  redis.call('ZREM', own_index_key(state, tenant), id)
end
local function set_state(id, state)
  local old = redis.call('HMGET', job_key(id), 'state', 'number', 'tenant')
  leave_index(id, old[3], old[1])
  enter_index(id, old[3], state, old[2])
  redis.call('HSET', job_key(id), 'state', state)
end

-- Notes on the way of a job, the first 10,000: who held which unit, and what came of it.
local function note(id, entry, now)
  local key = timeline_key(id)
  if redis.call('LLEN', key) >= 10000 then return end
  entry.at_ms = now
  redis.call('RPUSH', key, cjson.encode(entry))
  redis.call('EXPIRE', key, math.max(1, redis.call('TTL', job_key(id))))
end

-- Fences grow through the whole job: a unit of the same name may come back after a split, and its number must not. Nor
-- after a crash of the server that took the last second along, so they keep up with the clock.
local function next_fence(id, now)
  local fence = math.max((tonumber(redis.call('HGET', job_key(id), 'fences')) or 0) + 1, now)
  redis.call('HSET', job_key(id), 'fences', fence)
  return fence
end

-- Keeps what the pool has given up: the last 1,000, numbered through.
local function bury(letter, now)
  local number = redis.call('HINCRBY', TOTALS, 'dead_letters', 1)
  letter.id, letter.at_ms = string.format('%d', number), now
  redis.call('HSET', DEAD, letter.id, cjson.encode(letter))
  redis.call('HDEL', DEAD, string.format('%d', number - 1000))
end

local function bury_unit(id, unit, error, now)
  local record = cjson.decode(redis.call('HGET', job_key(id), 'record'))
  bury({ kind = 'page', job_id = id, unit = unit, name = record.name, code = error.code, reason = error.message }, now)
end

-- Who comes anew takes its turn with those whose turn it is, however many wait of theirs.
local function enter_turns(lane, tenant)
  if redis.call('ZSCORE', turns_key(lane), tenant) then return end
  local first = redis.call('ZRANGE', turns_key(lane), 0, 0, 'WITHSCORES')
  redis.call('ZADD', turns_key(lane), first[2] or 0, tenant)
end

-- The tenants of which something may wait in the lane. That without a name is looked at in any case.
local function tenants_in(lane)
  local found = redis.call('ZRANGE', turns_key(lane), 0, -1)
  if not redis.call('ZSCORE', turns_key(lane), '') then found[#found + 1] = '' end
  return found
end

-- The oldest unit of the tenant whose turn it is, as a member of the sets, and that tenant; nothing if none waits.
local function next_in_turn(lane)
  while true do
    local tenant = redis.call('ZRANGE', turns_key(lane), 0, 0)[1]
    if not tenant then return end
    local member = redis.call('ZRANGE', waiting_key(lane, tenant), 0, 0)[1]
    if member then return member, tenant end
    redis.call('ZREM', turns_key(lane), tenant)
  end
end

-- Quarantined units come one at a time, whoever's they are.
local function waits_under(id, lane) return lane == 'quarantine' and '' or tenant_of(id) end

local function put_waiting(id, unit, lane, now)
  local tenant = waits_under(id, lane)
  redis.call('ZADD', waiting_key(lane, tenant), now, id .. ' ' .. unit)
  if lane ~= 'quarantine' then enter_turns(lane, tenant) end
end

local function add_unit(id, unit, lane, deaths, now)
  redis.call('HSET', spans_key(id), unit .. ':lane', lane, unit .. ':deaths', deaths, unit .. ':fence', 0)
  put_waiting(id, unit, lane, now)
end

-- What a tenant's unfinished jobs weigh: their number, and their pages without an outcome (1 until they are counted).
-- The load is at any time the sum of the shares, which tell whose a job was even if its own keys are gone.
local function share_of(id)
  local pages, tenant = string.match(redis.call('HGET', SHARES, id) or '', '^(%d+) (.*)$')
  return tonumber(pages), tenant
end
local function weigh(id, tenant, pages)
  redis.call('HSET', SHARES, id, string.format('%d %s', pages, tenant))
  redis.call('HINCRBY', LOAD, 'jobs ' .. tenant, 1)
  redis.call('HINCRBY', LOAD, 'pages ' .. tenant, pages)
end
local function weigh_again(id, change)
  local pages, tenant = share_of(id)
  if not pages then return end
  redis.call('HSET', SHARES, id, string.format('%d %s', pages + change, tenant))
  redis.call('HINCRBY', LOAD, 'pages ' .. tenant, change)
end
local function take_off(id)
  local pages, tenant = share_of(id)
  if not pages then return end
  redis.call('HDEL', SHARES, id)
  redis.call('HINCRBY', LOAD, 'pages ' .. tenant, -pages)
  if redis.call('HINCRBY', LOAD, 'jobs ' .. tenant, -1) == 0 then
    redis.call('HDEL', LOAD, 'jobs ' .. tenant, 'pages ' .. tenant)
  end
end

-- Takes the unit out of every list. Its lane is still known.
local function forget(id, unit)
  local member = id .. ' ' .. unit
  local lane = redis.call('HGET', spans_key(id), unit .. ':lane')
  redis.call('ZREM', waiting_key(lane, waits_under(id, lane)), member)
  redis.call('ZREM', LEASES, member)
  if redis.call('GET', QUARANTINED) == member then redis.call('DEL', QUARANTINED) end
end

-- Ends the unit: it is in no list, and no fence of it is current.
local function remove_unit(id, unit)
  forget(id, unit)
  redis.call('HDEL', spans_key(id), unit .. ':fence', unit .. ':lane', unit .. ':deaths', unit .. ':worker',
    unit .. ':token', unit .. ':failures')
end

-- The next quarantined unit, if none is being read: {} or {{id, unit, lane}}.
local function next_quarantined(now)
  local next = redis.call('ZRANGE', waiting_key('quarantine', ''), 0, 0)[1]
  if not next or redis.call('EXISTS', QUARANTINED) == 1 then return {} end
  redis.call('ZADD', waiting_key('quarantine', ''), 'XX', now, next)
  local id, unit = string.match(next, '^(%S+) (.+)$')
  return { { id, unit, 'quarantine' } }
end

-- A webhook's record is kept this long after its last change; a queue of them longer than any of its members.
local DELIVERY_TTL_S, DELIVERIES_TTL_S = 7 * 86400, 30 * 86400

-- Webhooks queue by origin (scheme, host, port), so that an endpoint that takes long keeps no other waiting. Each tenant
-- has origins and endpoints of its own: what is said or not said to its webhooks is nothing to those of others.
local function of_tenant(tenant, url)
  return redis.sha1hex((not tenant or tenant == '') and url or tenant .. ' ' .. url)
end
local function origin_of(tenant, url) return of_tenant(tenant, string.match(url, '^https?://[^/?#]+')) end
local function standing_key(origin) return ns .. ':standing:' .. origin end
local function outbox_key(origin) return ns .. ':outbox:' .. origin end
-- An endpoint is what stands before the query, which differs from job to job.
local function disabled_key(tenant, url)
  return ns .. ':disabled:' .. of_tenant(tenant, string.match(url, '^[^?#]+'))
end

-- Origins stand in rows, one for each tenant and standing: 'slow' if the last try took long, 'good' if one has come there
-- in time and none has taken long since, else 'unknown'. So whoever sends finds those who may be sent to, however many
-- others are due.
local STANDINGS = { 'good', 'unknown', 'slow' }
local function row_key(row) return ns .. ':row:' .. row end
local function set_row_due(row)
  local first = redis.call('ZRANGE', row_key(row), 0, 0, 'WITHSCORES')
  if first[1] then redis.call('ZADD', ROWS, first[2], row) else redis.call('ZREM', ROWS, row) end
end

-- Sets when the origin is looked at next: when the first of its webhooks is due, and its rest is over.
local function set_due(tenant, origin)
  local first = redis.call('ZRANGE', outbox_key(origin), 0, 0, 'WITHSCORES')
  local v = redis.call('HMGET', standing_key(origin), 'is', 'until')
  local due = first[1] and math.max(tonumber(v[2]) or 0, tonumber(first[2]))
  if due then redis.call('ZADD', OUTBOX, due, origin) else redis.call('ZREM', OUTBOX, origin) end
  for _, standing in ipairs(STANDINGS) do
    local row = standing .. ':' .. (tenant or '')
    if due and standing == (v[1] or 'unknown') then
      redis.call('ZADD', row_key(row), due, origin)
    else
      redis.call('ZREM', row_key(row), origin)
    end
    set_row_due(row)
  end
end

local function post(id, tenant, url, due)
  local origin = origin_of(tenant, url)
  redis.call('ZADD', outbox_key(origin), due, id)
  redis.call('EXPIRE', outbox_key(origin), DELIVERIES_TTL_S)
  set_due(tenant, origin)
end

-- Puts the webhook of a job that has just ended into the outbox, if it is to have one.
local function post_webhook(id, state, now)
  local v = redis.call('HMGET', job_key(id), 'webhook', 'pages_total', 'pages_done', 'pages_failed', 'error', 'record',
    'tenant')
  if not v[1] then return end
  redis.call('HSET', delivery_key(id), 'url', v[1], 'state', 'pending', 'attempts', 0, 'outcome', '', 'ended', now,
    'job_state', state, 'pages_total', v[2] or '', 'pages_done', v[3], 'pages_failed', v[4], 'error', v[5] or '',
    'name', tostring(cjson.decode(v[6]).name or ''), 'tenant', v[7] or '')
  redis.call('EXPIRE', delivery_key(id), DELIVERY_TTL_S)
  redis.call('ZADD', DELIVERIES, now, id)
  redis.call('ZREMRANGEBYRANK', DELIVERIES, 0, -10001)
  post(id, v[7], v[1], now)
end

-- Takes a webhook out of the outbox for good: 'delivered' or 'dead'.
local function end_delivery(id, tenant, url, state, outcome, now)
  redis.call('HSET', delivery_key(id), 'state', state, 'outcome', outcome)
  redis.call('EXPIRE', delivery_key(id), DELIVERY_TTL_S)
  redis.call('ZREM', outbox_key(origin_of(tenant, url)), id)
  set_due(tenant, origin_of(tenant, url))
  redis.call('HINCRBY', TOTALS, state == 'dead' and 'webhooks_failed' or 'webhooks_delivered', 1)
  if state == 'dead' then
    bury({ kind = 'webhook', job_id = id, name = string.match(url, '^[^?#]+'), code = 'webhook_failed',
      reason = outcome }, now)
  end
end

-- The cache. Documents that are to be read alike have one digest. What a job of it has read is given to later ones for a
-- while, if every worker that is ready reads as those did that read it; and to those that came meanwhile and follow it.
local READERS = ns .. ':readers'
local MOST_FOLLOWERS = 32
-- Stands for readers that are several or not told, and for outcomes that lie elsewhere: nobody is given their pages.
local UNLIKE = '-'
local function known_key(document, reader) return ns .. ':known:' .. document .. ':' .. reader end
local function pixels_key(digest) return ns .. ':pixels:' .. digest end
local function leader_key(document, lane) return ns .. ':leader:' .. document .. ':' .. lane end
local function followers_key(id) return ns .. ':followers:' .. id end

-- Each worker's time and manner of reading. One that is ahead of its time was written before the clock stepped back.
local function reader_at(entry, now)
  local ends, ttl, reader = string.match(entry, '^(%d+) (%d+) (%x+)$')
  if ends and tonumber(ends) > now and ends - now <= tonumber(ttl) then return reader end
end
-- How the workers that are ready read, if they all read alike.
local function sole_reader(now)
  local sole, found = nil, redis.call('HGETALL', READERS)
  for i = 2, #found, 2 do
    local reader = reader_at(found[i], now)
    if reader and sole and reader ~= sole then return nil end
    sole = reader or sole
  end
  return sole
end

-- Says who read a page that is about to be recorded, and how much there is of it.
local function note_read(id, outcome_json, reader)
  local key = job_key(id)
  local v = redis.call('HMGET', key, 'document', 'reader')
  if not v[1] then return end
  if not string.find(reader, '^%x+$') or not string.find(outcome_json, '^{"kind":"page"') then reader = UNLIKE end
  if v[2] ~= reader then redis.call('HSET', key, 'reader', v[2] and UNLIKE or reader) end
  redis.call('HINCRBY', key, 'bytes', #outcome_json)
end

-- The job that is being read, of a document's digest, if one more may follow it.
local function leader_of(document, lane)
  local id = redis.call('GET', leader_key(document, lane))
  local state = id and redis.call('HGET', job_key(id), 'state')
  if not state or FINAL[state] or redis.call('SCARD', followers_key(id)) >= MOST_FOLLOWERS then return nil end
  return id
end
-- The broker's messages for its units stay with a follower, for the case that it is to be read by itself.
local function follow(leader, id, units, messages, lane)
  redis.call('HSET', job_key(id), 'units', table.concat(units, ' '), 'lane', lane, 'messages', cjson.encode(messages))
  redis.call('SADD', followers_key(leader), id)
  redis.call('EXPIRE', followers_key(leader), math.max(1, redis.call('TTL', job_key(leader))))
end

-- Whether the job's pages may be given to one with this document.
local function is_known(id, document)
  local v = redis.call('HMGET', job_key(id), 'state', 'document')
  return v[1] == 'succeeded' and v[2] == document and redis.call('EXISTS', pages_key(id)) == 1
end

-- A job's fields and values, without its pages; none if there is no such job. Of a queued job also `position`, the units
-- before it in its lane, and `wait_ms`, about how long they take, if that is known.
local function status_of(id)
  local found = redis.call('HGETALL', job_key(id))
  local v = redis.call('HMGET', job_key(id), 'state', 'lane', 'first', 'tenant')
  if v[1] ~= 'queued' then return found end
  local own = redis.call('ZRANK', waiting_key(v[2], v[4]), id .. ' ' .. v[3])
  if not own then return found end
  -- Tenants take turns: as many of each other's come before it as of its own, and one more.
  local position = own
  for _, tenant in ipairs(tenants_in(v[2])) do
    if tenant ~= v[4] then position = position + math.min(own + 1, redis.call('ZCARD', waiting_key(v[2], tenant))) end
  end
  found[#found + 1], found[#found + 2] = 'position', string.format('%d', position)
  local flow = redis.call('HMGET', FLOW, v[2] .. ':mean', v[2] .. ':last', v[2] .. ':crowded')
  if not flow[1] then return found end
  -- The queue may have become slower since the last claim, or stand still.
  local gap = math.max(tonumber(flow[1]), flow[3] == '1' and math.min(now_ms() - flow[2], 60000) or 0)
  found[#found + 1], found[#found + 2] = 'wait_ms', string.format('%d', (position + 1) * gap)
  return found
end

local finalise
-- Ends a job with the pages of another.
local function adopt(id, source, how, ttl_s, now)
  local pages, bytes = redis.call('HGETALL', pages_key(source)), 0
  local order = {}
  for i = 1, #pages, 2 do
    local outcome = string.gsub(pages[i + 1], '"cached":false', '"cached":true', 1)
    redis.call('HSETNX', pages_key(id), pages[i], outcome)
    redis.call('HINCRBY', job_key(id), 'pages_done', 1)
    order[#order + 1] = tonumber(pages[i])
    bytes = bytes + #outcome
  end
  table.sort(order)
  for _, page in ipairs(order) do redis.call('RPUSH', order_key(id), page) end
  redis.call('HSET', job_key(id), 'pages_total', #pages / 2, 'cached', 1)
  redis.call('HINCRBY', TOTALS, 'pages_succeeded', #pages / 2)
  redis.call('HINCRBY', TOTALS, 'documents_' .. how, 1)
  redis.call('HINCRBY', TOTALS, 'cached_bytes', bytes)
  finalise(id, 'succeeded', '', ttl_s, now)
end

-- A follower is read by itself, and waits where it would have if it had followed nobody. A unit that waits without a
-- message would be read with that of another one's, which was left to the sweep: so they are published here. The next
-- sweep publishes those of a job that has no messages: they look as if they had waited long.
local function part(id)
  local v = redis.call('HMGET', job_key(id), 'units', 'lane', 'created', 'messages')
  local messages = cjson.decode(v[4] or '[]')
  for unit in string.gmatch(v[1], '%S+') do add_unit(id, unit, v[2], 0, messages[1] and v[3] or 0) end
  for _, message in ipairs(messages) do redis.call('LPUSH', queue_key(v[2]), message) end
  redis.call('HDEL', job_key(id), 'messages')
  redis.call('EXPIRE', spans_key(id), math.max(1, redis.call('TTL', job_key(id))))
  redis.call('HINCRBY', TOTALS, 'documents_parted', 1)
end

-- What becomes of a job's pages, once it has ended, and of the jobs that follow it.
local function share_pages(id, state, ttl_s, now)
  local v = redis.call('HMGET', job_key(id), 'document', 'known_s', 'known_bytes', 'reader', 'bytes', 'cached', 'lane')
  if not v[1] or v[6] then return end
  local given = state == 'succeeded' and v[4] and v[4] ~= UNLIKE and tonumber(v[5]) <= tonumber(v[3])
  -- Half of the result's life, so that its document is not being deleted when it is given to another.
  local known_s = math.min(tonumber(v[2]), math.floor(ttl_s / 2))
  if given and known_s >= 1 then redis.call('SET', known_key(v[1], v[4]), id, 'EX', known_s) end
  if v[7] and redis.call('GET', leader_key(v[1], v[7])) == id then redis.call('DEL', leader_key(v[1], v[7])) end
  local followers = redis.call('SMEMBERS', followers_key(id))
  redis.call('DEL', followers_key(id))
  for _, follower in ipairs(followers) do
    local its = redis.call('HGET', job_key(follower), 'state')
    if its and not FINAL[its] then
      if given then adopt(follower, id, 'joined', ttl_s, now) else part(follower) end
    end
  end
end

-- Ends the job unless it has ended: frees its units, starts its keys' last TTL, tells whoever waits.
function finalise(id, state, error_json, ttl_s, now)
  local key = job_key(id)
  local old = redis.call('HGET', key, 'state')
  if not old or FINAL[old] then return false end
  set_state(id, state)
  redis.call('HSET', key, 'finished', now)
  redis.call('HDEL', key, 'messages')
  if error_json ~= '' then redis.call('HSET', key, 'error', error_json) end
  local fields = redis.call('HKEYS', spans_key(id))
  for _, field in ipairs(fields) do
    local unit = string.match(field, '^(.*):lane$')
    if unit then forget(id, unit) end
  end
  redis.call('DEL', spans_key(id))
  redis.call('ZREM', ACTIVE, id)
  redis.call('SREM', RUNNING, id)
  take_off(id)
  redis.call('EXPIRE', key, ttl_s)
  redis.call('EXPIRE', pages_key(id), ttl_s)
  redis.call('EXPIRE', order_key(id), ttl_s)
  redis.call('EXPIRE', timeline_key(id), ttl_s)
  local name = redis.call('HGET', key, 'key')
  if name then redis.call('EXPIRE', idempotency_key(name), ttl_s) end
  redis.call('ZADD', GARBAGE, now + ttl_s * 1000, redis.call('HGET', key, 'blob'))
  for _, blob in ipairs(redis.call('SMEMBERS', outcomes_key(id))) do
    redis.call('ZADD', GARBAGE, now + ttl_s * 1000, blob)
  end
  redis.call('EXPIRE', outcomes_key(id), ttl_s)
  redis.call('HINCRBY', TOTALS, 'jobs_' .. state, 1)
  post_webhook(id, state, now)
  publish_event(id)
  share_pages(id, state, ttl_s, now)
  return true
end

-- Records one page's outcome and, with the last page, ends the job. The caller has checked the fence. `trace` tells where
-- the page's time went (JSON), or is nil.
local function record_page(id, unit, page, outcome_json, error_json, trace, ttl_s, now)
  local key = job_key(id)
  if redis.call('HSETNX', pages_key(id), page, outcome_json) == 0 then return 'duplicate' end
  redis.call('EXPIRE', pages_key(id), math.max(1, redis.call('TTL', key)))
  weigh_again(id, -1)
  local failed = error_json ~= ''
  redis.call('RPUSH', order_key(id), failed and -page or page)
  redis.call('EXPIRE', order_key(id), math.max(1, redis.call('TTL', key)))
  note(id, { what = 'page', page = page, unit = unit, failed = failed, trace = trace }, now)
  redis.call('HINCRBY', key, failed and 'pages_failed' or 'pages_done', 1)
  redis.call('HINCRBY', TOTALS, failed and 'pages_failed' or 'pages_succeeded', 1)
  local v = redis.call('HMGET', key, 'pages_total', 'pages_done', 'pages_failed')
  local total, done, bad = tonumber(v[1]), tonumber(v[2]), tonumber(v[3])
  if done + bad < total then
    publish_event(id)
    return 'running'
  end
  local state = (bad == 0 and 'succeeded') or (done == 0 and 'failed') or 'partial'
  finalise(id, state, state == 'failed' and error_json or '', ttl_s, now)
  return state
end
