package proxy

import "testing"

// Any conversation, told by bytes and led by what reaches new code, looks the
// same through a relay as tcp(7) says of a direct connection.
func FuzzRelayScript(f *testing.F) {
	for _, s := range conversations {
		f.Add(s)
	}
	data := pattern(1 << 20)
	f.Fuzz(func(t *testing.T, told []byte) {
		script := readScript(told)
		g := newScriptRig(t)
		ends := [2]peer{g.client, g.server}
		defer closeBoth(ends)
		play(t, "through the relay", script, ends, data)
		closeBoth(ends)
		await(t, "the relay ends", g.done)
	})
}

// conversations are the beginnings of the corpus: three bytes a step, see
// readStep.
var conversations = [][]byte{
	{0, 2, 10, 1, 5, 255, 1, 2, 10, 0, 5, 255, 0, 1, 0, 1, 1, 0},      // one request, one answer, the end
	{0, 2, 255, 0, 3, 255, 0, 4, 255, 1, 0, 0},                        // a close with bytes unread
	{0, 1, 0, 1, 2, 200, 1, 2, 100, 0, 5, 3, 1, 1, 0},                 // a half-close, and the answer
	{1, 2, 200, 1, 1, 0, 0, 2, 1, 0, 0, 0},                            // an end, then a close
	{0, 1, 0, 1, 2, 40, 1, 4, 0},                                      // a reset behind a half-close
	{0, 2, 255, 1, 2, 255, 0, 2, 255, 1, 2, 255, 0, 5, 9, 1, 5, 9, 1}, // both at once
}

const longestConversation = 24 // steps

// readScript turns bytes into steps that say something in the state the two
// sides are in. Every string of bytes is a script.
func readScript(told []byte) []step {
	var s [2]side
	var script []step
	for len(told) >= 3 && len(script) < longestConversation && (!s[0].closed || !s[1].closed) {
		st := readStep(told, &s)
		apply(st, &s)
		script = append(script, st)
		told = told[3:]
	}
	return script
}

// readStep reads who does what, and with how much, out of what is possible.
func readStep(told []byte, s *[2]side) step {
	who := int(told[0] & 1)
	if s[who].closed {
		who = 1 - who
	}
	x, y := &s[who], &s[1-who]
	can := []action{closeAll}
	if !x.broken && !x.fin {
		can = append(can, halfClose)
		if y.unread < 20_000 {
			can = append(can, write, write)
		}
	}
	can = append(can, resetAll)
	if x.unread > 0 {
		can = append(can, read)
	}
	st := step{who: who, do: can[int(told[1])%len(can)]}
	switch n := int(told[2]); {
	case st.do == write && n >= 128: // more than the shared buffer holds
		st.n = 1 + (n-128)*150
	case st.do == write:
		st.n = 1 + n
	case st.do == read:
		st.n = 1 + x.unread*n/256
	}
	return st
}
