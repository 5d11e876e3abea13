-- One decision about a key, or the same about each of several, atomic because Redis runs a script alone. The
-- arithmetic is that of package bucket, in doubles, which are exact integers below 2^53. All numbers are integers.
--
-- KEYS     the keys. One of several costs half of what one alone does: the other half is the cost of running a script.
-- ARGV     a take or a debt, four for each limit: "capacity token pertick", the limit in tokens, units in a token,
--          and units that come back each microsecond; the largest deficit that admits, -1 for none; the units to add
--          to the deficit; and pertick again. If refusals may start a ban, these follow: the limits of its buckets of
--          strikes and of memory; the shortest and the longest ban in microseconds; and "ban".
--          A give-back, four for each limit: the limit; the deficit right after the take; the units to give back; and
--          pertick. Then the time of the take; "plain", "leave" or "queued"; and "back".
--          A lease, four for each limit: the limit; the tokens that are needed; the tokens that are wanted; and the
--          deficit, in units, up to which the grant is raised. Then "lease".
--          A look: the limits, or none for those that are stored, and "look". A reset: "reset".
--
-- Reply    the time in microseconds since the epoch, and then for each key: 1 if allowed, 0 if not, or -1 if the key
--          holds something that is not a rate limit; microseconds that the clock is behind the state; each limit's
--          deficit in units; and, if bans were asked for, the microseconds that the key is still shut out.
--          A lease: 1 if everything needed is granted, or 0; how far the clock is behind; each limit's deficit
--          afterwards; and the tokens that each limit grants.
--          A reset: 1 if there was anything to forget, and 0. A look, of one key: 1; how far the clock is behind; how
--          many buckets; each bucket's capacity, token, pertick and deficit; and those of the two of a ban, if any.
--
-- State    "b1 last", then for each bucket " capacity token pertick deficit"; last is in microseconds since the
--          epoch. If there was ever a ban or a strike, " ban" and its two buckets follow. Text, so that GET shows it:
--          struct.pack is a tenth faster. One string: a hash costs a fifth more.
--
-- Redis refuses a write (out of memory, a replica, a full disk) only if it is the script's first. So an error means that
-- nothing was done.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local reply, others

-- The fast path, which nearly all calls take, in a third of the time of the general one: one limit, and no bucket yet
-- or one under that limit.
if #ARGV == 4 and ARGV[4] ~= 'look' then
  reply = {now, 0, 0, 0} -- space for one key's numbers
  local limit, ceiling, cost, pertick = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
  local call, pcall, match, format, ceil = redis.call, redis.pcall, string.match, string.format, math.ceil
  -- Matches a state under this limit, whose text has no character that is special in a pattern; and how a new state
  -- begins.
  local mine = '^b1 (%d+) ' .. limit .. ' (%d+)$'
  local fresh = format('b1 %s%06d %s ', time[1], time[2], limit)
  for i = 1, #KEYS do
    local key = KEYS[i]
    local state = pcall('GET', key)
    local last, deficit, allowed = now, 0, nil
    if state then
      last, deficit = match(state.err or state, mine)
    end
    if last then
      last, deficit = tonumber(last), tonumber(deficit)
      local elapsed = now - last
      if elapsed >= 0 and deficit < 9007199254740992 then
        deficit = deficit - elapsed * pertick
        if deficit < 0 then deficit = 0 end
        allowed = deficit <= ceiling and 1 or 0
        -- A refusal writes nothing, nor does a look.
        if allowed == 1 and cost > 0 then
          deficit = deficit + cost
          if deficit > 9007199254740991 then deficit = 9007199254740991 end
          -- All numbers are passed as text: Redis would format them with 17 digits, which takes longer.
          call('SET', key, fresh .. format('%.0f', deficit),
            'PX', format('%.0f', ceil(ceil(deficit / pertick) / 1000) + 2000))
        end
        reply[3 * i - 1], reply[3 * i], reply[3 * i + 1] = allowed, 0, deficit
      end
    end
    if not allowed then
      others = others or {}
      others[#others + 1] = i
    end
  end
  if not others then return reply end
else
  reply, others = {now}, {}
  for i = 1, #KEYS do others[i] = i end
end
