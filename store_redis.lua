-- One decision about one key, atomic because Redis runs a script alone. The arithmetic is bucket.go's, in
-- doubles, which are exact integers below 2^53.
--
-- KEYS[1]  the key
-- ARGV[1]  "take", "adjust" or "reset"
-- ARGV[2]  n, tokens
-- ARGV[3…] for each limit: capacity in tokens, units in a token, units that come back each microsecond
--
-- Reply: {1 if allowed else 0, microseconds that the clock is behind the state, each limit's deficit in units}
--
-- State: "b1 last", then for each bucket " capacity token pertick deficit"; last is in microseconds since the
-- epoch. Text rather than struct.pack, so that GET shows it; one string, because a hash costs a fifth more.

local key, op, n = KEYS[1], ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- Read. Under another type GET fails with WRONGTYPE, and a string that does not parse is refused here: what
-- is not ours is never overwritten, and never taken for a full bucket.
local last, buckets = now, {}
local state = redis.call('GET', key)
if state then
  local body = string.match(state, '^b1( %d[%d ]*)$')
  local numbers = {}
  for digits in string.gmatch(body or '', ' (%d+)') do
    local number = tonumber(digits)
    if number >= 9007199254740992 then
      numbers = {}
      break
    end
    numbers[#numbers + 1] = number
  end
  if #numbers % 4 ~= 1 then
    return redis.error_reply('FOREIGN the key holds something that is not a rate limit')
  end
  last = numbers[1]
  for i = 2, #numbers, 4 do
    local capacity, token, pertick = numbers[i], numbers[i + 1], numbers[i + 2]
    if capacity < 1 or token < 1 or pertick < 1 or capacity * token > 4503599627370496 then
      return redis.error_reply('FOREIGN the key holds something that is not a rate limit')
    end
    buckets[#buckets + 1] = {capacity, token, pertick, numbers[i + 3]}
  end
end

if op == 'reset' then
  -- A full bucket that expires at once is an absent one; it spares the ACL a DEL.
  if state then redis.call('SET', key, string.format('b1 %.0f', now), 'PX', 1) end
  return {1, 0}
end

-- Time that goes backwards mints nothing. A little (clocks of two masters at a failover) is waited out. More
-- would starve the key until the clock is back, so its time starts again from here, with the deficit kept.
local elapsed, late, rebased = now - last, 0, false
if elapsed < 0 then
  if elapsed >= -1000000 then late = -elapsed else rebased = true end
  elapsed = 0
end

local function refill(deficit, pertick)
  if elapsed >= math.ceil(deficit / pertick) then return 0 end
  return deficit - elapsed * pertick
end

-- ceil(a * b / c) for a < c, by doubling and adding, since the product does not fit 53 bits.
local function muldivup(a, b, c)
  local bit = 1
  while bit * 2 <= b do bit = bit * 2 end
  local q, r = 0, 0
  while bit >= 1 do
    q, r = q * 2, r * 2
    if r >= c then q, r = q + 1, r - c end
    if b >= bit then
      b, r = b - bit, r + a
      if r >= c then q, r = q + 1, r - c end
    end
    bit = bit / 2
  end
  if r > 0 then q = q + 1 end
  return q
end

-- Takes a deficit over from a bucket's old limit; scale.carry in bucket.go says why.
local function carry(bucket, capacity, token)
  local deficit, from = bucket[4], bucket[2]
  if from == token and bucket[1] == capacity then return deficit end
  if from ~= token then
    local part = math.fmod(deficit, from)
    local whole = (deficit - part) / from
    if whole >= capacity then return capacity * token end
    deficit = whole * token + muldivup(part, token, from)
  end
  return math.min(deficit, capacity * token)
end

-- Decide.
local reply, asked, allowed = {1, late}, {}, true
for i = 3, #ARGV, 3 do
  local capacity, token, pertick = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local bucket, deficit = buckets[#asked + 1], 0
  if bucket then deficit = refill(carry(bucket, capacity, token), pertick) end
  asked[#asked + 1] = {capacity, token, pertick, deficit}
  if op == 'take' and (n > capacity or deficit > (capacity - n) * token) then allowed = false end
end
for i, bucket in ipairs(asked) do
  if op == 'adjust' then
    bucket[4] = math.min(math.max(0, bucket[4] - n * bucket[2]), 9007199254740991)
  elseif allowed then
    bucket[4] = bucket[4] + n * bucket[2]
  end
  reply[i + 2] = bucket[4]
end
if not allowed then reply[1] = 0 end

-- Write, once, and only if something changed. A refusal changes nothing, but for a clock that has to start again.
if not rebased and (not allowed or n == 0) then return reply end
for i = #asked + 1, #buckets do
  buckets[i][4] = refill(buckets[i][4], buckets[i][3])
end
for i, bucket in ipairs(asked) do buckets[i] = bucket end
local fields, full = {string.format('b1 %.0f', now + late)}, 0
for i, bucket in ipairs(buckets) do
  fields[i + 1] = string.format('%.0f %.0f %.0f %.0f', bucket[1], bucket[2], bucket[3], bucket[4])
  full = math.max(full, math.ceil(bucket[4] / bucket[3]))
end
-- The key lives until every bucket is full, and as much longer as a clock may be behind.
redis.call('SET', key, table.concat(fields, ' '), 'PX', string.format('%.0f', math.ceil((full + late) / 1000) + 2000))
return reply
