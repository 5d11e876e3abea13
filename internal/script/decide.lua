-- The second part of the script, behind fast.lua: it decides about the keys that are left in others, whatever is asked
-- for and whatever is there.

local limits, banning = #ARGV, ARGV[#ARGV] == 'ban'
if banning then limits = limits - 5 end

-- Makes the decision about a key, whatever is asked for and whatever is there, and returns its part of the reply.
local function decide(key)
  local state = redis.pcall('GET', key)
  if state and state.err then
    if string.find(state.err, 'WRONGTYPE', 1, true) then return {-1} end
    redis.call('GET', key) -- Fails with what it has failed with.
  end
  -- What does not parse is not ours: never overwritten, and never taken for a full bucket.
  local ours = not state or not (string.find(state, '  ', 1, true) or string.sub(state, -1) == ' ')

  -- The numbers of a text, and those from the given one on as buckets.
  local function parse(text, first)
    local numbers, buckets = {}, {}
    for digits in string.gmatch(text or '', ' (%d+)') do
      numbers[#numbers + 1] = tonumber(digits)
      ours = ours and numbers[#numbers] < 9007199254740992
    end
    ours = ours and #numbers % 4 == first - 1
    if ours then
      for i = first, #numbers, 4 do
        local capacity, token, pertick = numbers[i], numbers[i + 1], numbers[i + 2]
        ours = ours and capacity > 0 and token > 0 and pertick > 0 and capacity * token <= 4503599627370496
        buckets[#buckets + 1] = {capacity, token, pertick, numbers[i + 3]}
      end
    end
    return buckets, numbers[1]
  end

  local last, buckets, bans = now, {}, {}
  if state then
    local body, ban = string.match(state, '^b1( %d[%d ]*) ban( %d[%d ]*)$')
    buckets, last = parse(body or string.match(state, '^b1( %d[%d ]*)$'), 2)
    bans = parse(ban, 1)
    if not ours or #bans % 2 ~= 0 or #bans > 2 then
      return {-1}
    end
  end

  if #ARGV == 0 then
    -- A full bucket that expires at once equals an absent one, and spares the ACL a DEL.
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

  local function refill(deficit, pertick) return math.max(0, deficit - elapsed * pertick) end

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

  -- Puts a deficit into units of another size, as convert in internal/bucket does.
  local function convert(deficit, from, to)
    if from == to then return deficit end
    local part = math.fmod(deficit, from)
    return math.min((deficit - part) / from * to + muldivup(part, to, from), 9007199254740991)
  end

  -- A bucket as it is now, taken over by the limit that is asked for: the limit's numbers, what is missing by it,
  -- and by how many tokens the bucket is larger; Scale.TakeOver in internal/bucket says why.
  local function current(stored, limit)
    local capacity, token, pertick = string.match(limit, '^(%d+) (%d+) (%d+)$')
    local bucket = {tonumber(capacity), tonumber(token), tonumber(pertick), 0, 0}
    -- Full by its old limit, it is full: it may have expired as such.
    if not stored or refill(stored[4], stored[3]) == 0 then return bucket end
    local deficit = convert(stored[4], stored[2], bucket[2])
    if stored[1] > bucket[1] then
      if stored[1] * bucket[2] <= 4503599627370496 then
        bucket[5] = stored[1] - bucket[1]
      else
        deficit = math.min(deficit, bucket[1] * bucket[2])
      end
    end
    bucket[4] = math.max(0, refill(deficit, bucket[3]) - bucket[5] * bucket[2])
    return bucket
  end

  -- The same for a bucket of a ban: other options for it forgive what they would not count.
  local function renewed(stored, limit)
    local bucket = current(stored, limit)
    if stored and (stored[1] ~= bucket[1] or stored[2] ~= bucket[2] or stored[3] ~= bucket[3]) then
      bucket[4], bucket[5] = math.min(bucket[4], bucket[1] * bucket[2]), 0
    end
    return bucket
  end

  -- What a bucket holds now that is not asked for.
  local function untouched(bucket)
    bucket[4] = refill(bucket[4], bucket[3])
    return bucket
  end

  local strikes, memory, shortest, longest
  if banning then
    strikes, memory = renewed(bans[1], ARGV[limits + 1]), renewed(bans[2], ARGV[limits + 2])
    shortest, longest = tonumber(ARGV[limits + 3]), tonumber(ARGV[limits + 4])
  end
  local function banned()
    return math.ceil(math.max(0, strikes[4] - strikes[1] * strikes[2]) / strikes[3])
  end

  local shut = strikes and banned() > 0
  local asked, allowed, changed = {}, not shut, false
  for i = 1, limits, 4 do
    local bucket = current(buckets[#asked + 1], ARGV[i])
    asked[#asked + 1] = bucket
    allowed = allowed and bucket[4] <= tonumber(ARGV[i + 1])
    changed = changed or tonumber(ARGV[i + 2]) ~= 0
  end
  local look = not changed
  changed = changed and allowed
  local answer = {allowed and 1 or 0, late}
  for i, bucket in ipairs(asked) do
    if allowed then
      bucket[4] = math.min(math.max(0, bucket[4] + tonumber(ARGV[4 * i - 1])), 9007199254740991)
    end
    answer[#answer + 1] = bucket[4]
  end
  if strikes then
    -- A refusal is a strike, and the last strike a ban; Ban.Strike in internal/bucket says how. A look is no offence.
    if not (allowed or shut or look) then
      changed = true
      strikes[4] = strikes[4] + strikes[2]
      if strikes[4] > (strikes[1] - 1) * strikes[2] then
        local length = math.min(math.max(shortest, memory[4]), longest)
        strikes[4] = strikes[1] * strikes[2] + length * strikes[3]
        memory[4] = 3 * length
      end
    end
    answer[#answer + 1] = banned()
  end

  -- Write once, and only if something changes. A refusal changes nothing, but for a clock that starts again.
  if not (changed or rebased) then return answer end
  for i = #asked + 1, #buckets do asked[i] = untouched(buckets[i]) end
  if not strikes and bans[1] then
    strikes, memory = untouched(bans[1]), untouched(bans[2])
  end
  local fields, full = {string.format('b1 %.0f', now + late)}, 0
  local function write(bucket)
    local larger = bucket[5] or 0
    local deficit = math.min(bucket[4] + larger * bucket[2], 9007199254740991)
    fields[#fields + 1] = string.format('%.0f %.0f %.0f %.0f', bucket[1] + larger, bucket[2], bucket[3], deficit)
    full = math.max(full, math.ceil(deficit / bucket[3]))
  end
  for _, bucket in ipairs(asked) do write(bucket) end
  if strikes and strikes[4] + memory[4] > 0 then
    fields[#fields + 1] = 'ban'
    write(strikes)
    write(memory)
  end
  if state or full > 0 then
    -- The key lives until every bucket is full, and as much longer as a clock may be behind.
    redis.call('SET', key, table.concat(fields, ' '), 'PX', math.ceil((full + late) / 1000) + 2000)
  end
  return answer
end

local width = 2 + limits / 4 + (banning and 1 or 0)
for _, i in ipairs(others) do
  local answer = decide(KEYS[i])
  for j = 1, width do reply[(i - 1) * width + j] = answer[j] or 0 end
end
return reply
