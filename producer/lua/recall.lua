-- Finds the final jobs whose pages documents would be given; the others are to be stored, as `expect_blob` says.
-- ARGV: how long a blob may lie there without a job (ms); for each document its digest, or '' if it is not looked up, blob
-- Returns for each {id, blob of the final job}, or {}.
local lie = whole(1, 1)
for i = 3, #ARGV, 2 do check_blob(ARGV[i]) end
if #ARGV < 3 or #ARGV % 2 == 0 then error('a document has a digest and a blob') end
local now, reader = now_ms(), nil
local found, stored = {}, {}
for i = 2, #ARGV, 2 do
  local document, blob = ARGV[i], ARGV[i + 1]
  if document ~= '' and reader == nil then reader = sole_reader(now) or false end
  local id = document ~= '' and reader and redis.call('GET', known_key(document, reader))
  if id and is_known(id, document) then
    found[#found + 1] = { id, redis.call('HGET', job_key(id), 'blob') }
  else
    found[#found + 1] = {}
    stored[#stored + 1], stored[#stored + 2] = now + lie, blob
  end
end
if stored[1] then redis.call('ZADD', GARBAGE, unpack(stored)) end
return found
