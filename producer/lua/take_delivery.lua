#!lua flags=allow-oom
-- Takes a webhook that is due. It is due again when the lease is over, unless it was settled.
-- ARGV: lease (ms), most that are looked at, what nothing is taken from now (JSON list: origins, standings, and rows,
--       which are "<standing>:<tenant>"), a random number below a million, by which it is somebody's turn
-- Returns {job id, origin, standing, fence, field, value...}, or false where nothing may be sent now.
local lease, looks, chance = whole(1, 1), whole(2, 1), whole(4, 0, 999999) / 1000000
local busy, now = {}, now_ms()
local names = cjson.decode(ARGV[3])
if type(names) ~= 'table' then error('what is busy must be a list') end
for _, name in ipairs(names) do busy[tostring(name)] = true end

-- The origin's first webhook that is due and still to be sent; what is not is taken out.
local function first_of(tenant, origin)
  while looks > 0 do
    looks = looks - 1
    local id = redis.call('ZRANGE', outbox_key(origin), '-inf', now, 'BYSCORE', 'LIMIT', 0, 1)[1]
    if not id then
      set_due(tenant, origin)
      return nil
    end
    local v = redis.call('HMGET', delivery_key(id), 'url', 'state', 'tenant')
    if not v[1] or v[2] ~= 'pending' then
      redis.call('ZREM', outbox_key(origin), id)
    elseif redis.call('EXISTS', disabled_key(v[3], v[1])) == 1 then
      end_delivery(id, v[3], v[1], 'dead', 'The endpoint has lately answered 410 Gone.', now)
    else
      return id
    end
  end
  return nil
end

local rows = {}
for _, row in ipairs(redis.call('ZRANGE', ROWS, '-inf', now, 'BYSCORE')) do
  if not busy[row] and not busy[string.match(row, '^%l+')] then rows[#rows + 1] = row end
end
-- Each row is as likely as another to come first, and so is either end of it: an origin that comes behind hundreds of
-- others waits for a few of them, not for all, and those wait about twice as long at most.
local place = chance * #rows
local first, last_comes_first = math.floor(place), place % 1 >= 0.5
for i = first, first + #rows - 1 do
  local row = rows[i % #rows + 1]
  local standing, tenant = string.match(row, '^(%l+):(.*)$')
  local range = last_comes_first and { now, '-inf', 'BYSCORE', 'REV' } or { '-inf', now, 'BYSCORE' }
  range[#range + 1], range[#range + 2], range[#range + 3] = 'LIMIT', 0, looks + #names
  local origins = redis.call('ZRANGE', row_key(row), unpack(range))
  if not origins[1] then set_row_due(row) end
  for _, origin in ipairs(origins) do
    local id = not busy[origin] and first_of(tenant, origin)
    if id then
      redis.call('ZADD', outbox_key(origin), now + lease, id)
      set_due(tenant, origin)
      local reply = { id, origin, standing, redis.call('HINCRBY', delivery_key(id), 'fence', 1) }
      for _, field in ipairs(redis.call('HGETALL', delivery_key(id))) do reply[#reply + 1] = field end
      return reply
    end
  end
end
return false
