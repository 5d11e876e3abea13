
-- The general path, for all that the fast path leaves.

local MAX_UNITS, MAX_DEFICIT = 4503599627370496, 9007199254740991
local TOLERANCE = 1000000 -- microseconds that a clock may be behind and still be the same clock
local SLACK = 2000        -- milliseconds that a key outlives its buckets: TOLERANCE, and as much again

-- A number as a float under any Lua. Under 5.1 all numbers are floats; the integers of 5.3 and later would wrap around.
-- Replies pass through math.floor, which returns integers under 5.3 and later, and changes nothing under 5.1.
local function number(text) return tonumber(text) + 0.0 end

local asked, word = #ARGV, ARGV[#ARGV] -- how many arguments describe limits, and what is asked for
local banning, giving, leasing = word == 'ban', word == 'back', word == 'lease'
local looking, resetting = word == 'look', word == 'reset'
if banning then asked = asked - 5 elseif giving then asked = asked - 3
elseif leasing or looking or resetting then asked = asked - 1 end

local function refill(deficit, pertick, elapsed) return math.max(0, deficit - elapsed * pertick) end

-- ceil(a * b / c) for a < c, by doubling and adding, since the product does not fit 53 bits.
local function muldivup(a, b, c)
  local bit = 1.0
  while bit * 2 <= b do bit = bit * 2 end
  local q, r = 0.0, 0.0
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

-- Puts a deficit into units of another size, as package bucket does.
local function convert(deficit, from, to)
  if from == to then return deficit end
  local part = math.fmod(deficit, from)
  return math.min((deficit - part) / from * to + muldivup(part, to, from), MAX_DEFICIT)
end

local function size(bucket) return bucket.capacity * bucket.token end

-- A limit's bucket after the elapsed time, taken over from the stored one; Scale.TakeOver explains it. Its deficit is
-- counted from the limit's capacity. The surplus is how many tokens larger the stored
-- bucket is.
local function taken(stored, limit, elapsed)
  local capacity, token, pertick = string.match(limit, '^(%d+) (%d+) (%d+)$')
  local bucket = {capacity = number(capacity), token = number(token), pertick = number(pertick), deficit = 0, surplus = 0}
  -- A bucket that is full by its old limit is full: its key may have expired.
  if not stored or refill(stored.deficit, stored.pertick, elapsed) == 0 then return bucket end
  local deficit = convert(stored.deficit, stored.token, bucket.token)
  if stored.capacity > bucket.capacity then
    if stored.capacity * bucket.token <= MAX_UNITS then
      bucket.surplus = stored.capacity - bucket.capacity
    else
      deficit = math.min(deficit, size(bucket))
    end
  end
  bucket.deficit = math.max(0, refill(deficit, bucket.pertick, elapsed) - bucket.surplus * bucket.token)
  return bucket
end

-- The same for a bucket of a ban. If the ban's options have changed, a debt that they would not count is forgiven.
local function rescaled(stored, limit, elapsed)
  local bucket = taken(stored, limit, elapsed)
  if stored and (stored.capacity ~= bucket.capacity or stored.token ~= bucket.token or stored.pertick ~= bucket.pertick) then
    bucket.deficit, bucket.surplus = math.min(bucket.deficit, size(bucket)), 0
  end
  return bucket
end

-- A stored bucket after the elapsed time, by its own limit.
local function untouched(bucket, elapsed)
  bucket.deficit = refill(bucket.deficit, bucket.pertick, elapsed)
  return bucket
end

-- Reads " 1 2 3 4 ..." into buckets, from the number at index first on. Also returns the first number. Returns nil if the
-- text is not a rate limit's state.
local function parse(text, first)
  local numbers, buckets = {}, {}
  for digits in string.gmatch(text, ' (%d+)') do
    numbers[#numbers + 1] = number(digits)
    if numbers[#numbers] > MAX_DEFICIT then return nil end
  end
  if #numbers % 4 ~= first - 1 then return nil end
  for i = first, #numbers, 4 do
    local bucket = {capacity = numbers[i], token = numbers[i + 1], pertick = numbers[i + 2], deficit = numbers[i + 3]}
    if bucket.capacity == 0 or bucket.token == 0 or bucket.pertick == 0 or size(bucket) > MAX_UNITS then return nil end
    buckets[#buckets + 1] = bucket
  end
  return buckets, numbers[1]
end

-- Reads what is stored under a key: buckets, those of a ban, and their time. An absent key has no buckets. Text that does
-- not parse is not a rate limit's: it is never overwritten, and never taken for a full bucket.
local function read(state)
  if not state then return {}, {}, now end
  if string.find(state, '  ', 1, true) or string.sub(state, -1) == ' ' then return nil end
  local body, ban = string.match(state, '^b1( %d[%d ]*) ban( %d[%d ]*)$')
  body = body or string.match(state, '^b1( %d[%d ]*)$')
  if not body then return nil end
  local buckets, last = parse(body, 2)
  local bans = parse(ban or '', 1)
  if not buckets or not bans or #bans % 2 ~= 0 or #bans > 2 then return nil end
  return buckets, bans, last
end

-- How many tokens a bucket grants to a lease, nil if it has fewer than are needed; as Ask.Grant of package bucket.
local function grant(bucket, need, want, floor)
  local function whole(units) return (units - math.fmod(units, bucket.token)) / bucket.token end
  local there = whole(math.max(0, size(bucket) - bucket.deficit))
  if there < need then return nil end
  if need == 0 and want == 0 then return 0 end
  local raised = whole(math.max(0, floor - bucket.deficit) + bucket.token - 1)
  return math.max(need, math.min(math.max(want, raised), there))
end

local function banned(strikes)
  return math.ceil(math.max(0, strikes.deficit - size(strikes)) / strikes.pertick)
end

-- How many units a give-back is worth in a bucket; as Back.worth of package bucket.
local function worth(bucket, deficit, units, at, moment)
  if at - moment > TOLERANCE then return 0 end
  local left = refill(deficit, bucket.pertick, math.max(0, moment - at))
  units = math.min(units, left)
  if ARGV[asked + 2] == 'leave' then
    units = units - math.max(0, bucket.deficit - left)
  elseif ARGV[asked + 2] == 'queued' and bucket.deficit > size(bucket) then
    return 0
  end
  return math.max(0, units)
end

-- Makes the decision about a key, and returns its part of the reply.
local function decide(key)
  local state = redis.pcall('GET', key)
  if state and state.err then
    if string.find(state.err, 'WRONGTYPE', 1, true) then return {-1} end
    redis.call('GET', key) -- Fails again, and so ends the script with Redis' error.
  end
  local buckets, bans, last = read(state)
  if not buckets then return {-1} end

  -- A clock that goes backwards mints nothing. If it is a little behind the state (two masters' clocks at a failover),
  -- the key waits until it has caught up. If it is further behind, waiting would starve the key, so its time starts
  -- again from now, and it keeps its deficit.
  local elapsed, behind, rebased = now - last, 0, false
  if elapsed < 0 then
    if elapsed >= -TOLERANCE then behind = -elapsed else rebased = true end
    elapsed = 0
  end

  if looking then
    local answer = {1, math.floor(behind), asked > 0 and asked or #buckets}
    local function add(bucket)
      for _, field in ipairs({'capacity', 'token', 'pertick', 'deficit'}) do
        answer[#answer + 1] = math.floor(bucket[field])
      end
    end
    for i = 1, answer[3] do add(asked > 0 and taken(buckets[i], ARGV[i], elapsed) or untouched(buckets[i], elapsed)) end
    for _, bucket in ipairs(bans) do add(untouched(bucket, elapsed)) end
    return answer
  end

  if resetting then
    local found = 0
    for _, list in ipairs({buckets, bans}) do
      for _, bucket in ipairs(list) do
        if refill(bucket.deficit, bucket.pertick, elapsed) > 0 then found = 1 end
      end
    end
    -- A full bucket that expires at once equals an absent one, and needs no right to DEL.
    if state then redis.call('SET', key, string.format('b1 %.0f', now), 'PX', 1) end
    return {found, 0}
  end

  local strikes, memory
  if banning then
    strikes, memory = rescaled(bans[1], ARGV[asked + 1], elapsed), rescaled(bans[2], ARGV[asked + 2], elapsed)
  end
  local shut = strikes and banned(strikes) > 0
  local wanted, allowed, look = {}, not shut, true
  for i = 1, asked, 4 do
    local bucket = taken(buckets[#wanted + 1], ARGV[i], elapsed)
    wanted[#wanted + 1] = bucket
    if giving then
      bucket.cost = -worth(bucket, number(ARGV[i + 1]), number(ARGV[i + 2]), number(ARGV[asked + 1]), now + behind)
    elseif leasing then
      bucket.grant = grant(bucket, number(ARGV[i + 1]), number(ARGV[i + 2]), number(ARGV[i + 3]))
      bucket.cost = (bucket.grant or 0) * bucket.token
      allowed = allowed and bucket.grant ~= nil
    else
      bucket.cost = number(ARGV[i + 2])
      allowed = allowed and bucket.deficit <= number(ARGV[i + 1])
    end
    look = look and bucket.cost == 0
  end

  local changed = false
  local answer = {allowed and 1 or 0, math.floor(behind)}
  for _, bucket in ipairs(wanted) do
    if allowed then
      local deficit = math.min(math.max(0, bucket.deficit + bucket.cost), MAX_DEFICIT)
      changed = changed or deficit ~= bucket.deficit
      bucket.deficit = deficit
    end
    answer[#answer + 1] = math.floor(bucket.deficit)
  end
  if leasing then
    for _, bucket in ipairs(wanted) do answer[#answer + 1] = allowed and math.floor(bucket.grant) or 0 end
  end
  if strikes then
    -- A refusal is a strike, and the last strike starts a ban, as in Ban.Strike of package bucket. A take of nothing is
    -- not counted.
    if not (allowed or shut or look) then
      changed = true
      strikes.deficit = strikes.deficit + strikes.token
      if strikes.deficit > (strikes.capacity - 1) * strikes.token then
        local length = math.min(math.max(number(ARGV[asked + 3]), memory.deficit), number(ARGV[asked + 4]))
        strikes.deficit = size(strikes) + length * strikes.pertick
        memory.deficit = 3 * length
      end
    end
    answer[#answer + 1] = math.floor(banned(strikes))
  end

  -- Write once, and only if something changes. A refusal changes nothing, unless the key's time starts again.
  if not (changed or rebased) then return answer end
  for i = #wanted + 1, #buckets do wanted[i] = untouched(buckets[i], elapsed) end
  if not strikes and bans[1] then
    strikes, memory = untouched(bans[1], elapsed), untouched(bans[2], elapsed)
  end
  local fields, full = {string.format('b1 %.0f', now + behind)}, 0
  local function write(bucket)
    local surplus = bucket.surplus or 0
    local deficit = math.min(bucket.deficit + surplus * bucket.token, MAX_DEFICIT)
    fields[#fields + 1] = string.format('%.0f %.0f %.0f %.0f', bucket.capacity + surplus, bucket.token, bucket.pertick, deficit)
    full = math.max(full, math.ceil(deficit / bucket.pertick))
  end
  for _, bucket in ipairs(wanted) do write(bucket) end
  if strikes and strikes.deficit + memory.deficit > 0 then
    fields[#fields + 1] = 'ban'
    write(strikes)
    write(memory)
  end
  if state or full > 0 then
    -- The key lives until every bucket is full, and longer by what a clock may be behind.
    redis.call('SET', key, table.concat(fields, ' '), 'PX', string.format('%.0f', math.ceil((full + behind) / 1000) + SLACK))
  end
  return answer
end

if looking then
  local answer = decide(KEYS[1])
  for i = 1, #answer do reply[i + 1] = answer[i] end
  return reply
end
local width = 2 + asked / 4 * (leasing and 2 or 1) + (banning and 1 or 0)
for _, i in ipairs(others) do
  local answer = decide(KEYS[i])
  for j = 1, width do reply[1 + (i - 1) * width + j] = answer[j] or 0 end
end
return reply
