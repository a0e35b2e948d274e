#!lua flags=allow-oom
-- Takes jobs whose records are gone out of the lists of jobs. ARGV: most jobs of each state to look at.
-- Only the oldest are looked at: one that is still there is there for the TTL of a final job at most, and with it those
-- behind it.
-- Returns how many were taken out.
local most, gone = whole(1, 1, 10000), 0
for _, state in ipairs(STATES) do
  for _, member in ipairs(redis.call('ZRANGE', index_key(state), 0, most - 1)) do
    local id, tenant = string.match(member, '^(%S+) (.*)$')
    if redis.call('EXISTS', job_key(id)) == 0 then
      leave_index(id, tenant, state)
      gone = gone + 1
    end
  end
end
return gone
