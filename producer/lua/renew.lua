#!lua flags=allow-oom
-- Prolongs leases. ARGV: lease (ms), then id, unit, fence for each.
-- Returns 1 for each that still stands, 0 for each whose job is final or which another worker holds.
local now, out = now_ms(), {}
whole(1, 1)
if #ARGV % 3 ~= 1 then error('a claim is an id, a unit and a fence') end
for i = 2, #ARGV, 3 do
  local id, unit, fence = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local member = id .. ' ' .. unit
  if holds(id, unit, fence) then
    -- A lease that is gone although the fence stands was swept: its holder was slow, not dead.
    if redis.call('ZADD', LEASES, now + ARGV[1], member) == 1 then
      redis.call('HINCRBY', spans_key(id), unit .. ':deaths', -1)
    end
    local lane = redis.call('HGET', spans_key(id), unit .. ':lane')
    redis.call('ZREM', waiting_key(lane, waits_under(id, lane)), member)
    if lane == 'quarantine' then redis.call('SET', QUARANTINED, member, 'PX', ARGV[1]) end
    out[#out + 1] = 1
  else
    out[#out + 1] = 0
  end
end
return out
