-- Keeps a dead letter. ARGV: the letter (JSON), without its id and time.
local letter = cjson.decode(ARGV[1])
if type(letter) ~= 'table' then error('a letter is an object') end
bury(letter, now_ms())
return 'buried'
