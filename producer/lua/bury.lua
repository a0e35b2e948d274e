-- Keeps a dead letter. ARGV: the letter (JSON), without its id and time.
bury(cjson.decode(ARGV[1]), now_ms())
return 'buried'
