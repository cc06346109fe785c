//go:build linux

package soak

import (
	"math/rand/v2"
	"time"
)

// scenario is a kind of round: who comes, over what, and what goes wrong.
type scenario struct {
	name    string
	weather weather
	rate    string  // of the link, for tc(8); "": as wide as the machine
	far     float64 // share of the clients that come over the link
	heavy   float64 // share of the clients that move much
	redis   bool    // the child is redis-server
	manners func(*rand.Rand) manners
	// What goes wrong with processes, and with the link. Each list is drawn
	// from, one after the other, while the round lasts.
	injuries, outages []func(*round, injury)
}

// The weather of most rounds, and of the worst.
var (
	drizzle = weather{loss: 0.01, reorder: 0.02, duplicate: 0.005, delay: 5 * time.Millisecond}
	storm   = weather{loss: 0.05, reorder: 0.10, duplicate: 0.01, delay: 50 * time.Millisecond}
)

func polite(r *rand.Rand) manners {
	return manners{Nest: r.IntN(3) == 0, Start: 100 * time.Millisecond, Stop: 50 * time.Millisecond}
}

// dawdling children may be deaf: then the stop timeout ends them.
func dawdling(r *rand.Rand) manners {
	return manners{Nest: r.IntN(3) == 0, Start: 400 * time.Millisecond, Stop: 1200 * time.Millisecond, Deaf: r.IntN(4) == 0}
}

func shaky(r *rand.Rand) manners {
	return manners{Nest: r.IntN(3) == 0, Start: 100 * time.Millisecond, Stop: 100 * time.Millisecond, Fail: 0.15, Crash: 0.02}
}

var scenarios = []scenario{
	{name: "bad link", weather: storm, far: 0.5, heavy: 0.4, manners: polite},
	{name: "narrow link", weather: drizzle, rate: "8mbit", far: 0.7, heavy: 0.2, manners: polite},
	{name: "link goes down", weather: drizzle, far: 0.7, heavy: 0.3, manners: polite,
		outages: []func(*round, injury){(*round).outage, (*round).pullDown}},
	{name: "child killed", weather: drizzle, far: 0.3, heavy: 0.2, manners: polite,
		injuries: []func(*round, injury){(*round).killChild}},
	{name: "processes stopped", weather: drizzle, far: 0.3, heavy: 0.2, manners: polite,
		injuries: []func(*round, injury){(*round).stopChild, (*round).stopProxy, (*round).stopChild}},
	{name: "child crashes", weather: drizzle, far: 0.3, heavy: 0.1, manners: shaky},
	{name: "slow to stop", weather: drizzle, far: 0.2, heavy: 0.1, manners: dawdling},
	{name: "tiproxy killed", weather: drizzle, far: 0.3, heavy: 0.2, manners: dawdling,
		injuries: []func(*round, injury){(*round).killProxy}},
	{name: "tiproxy stopped", weather: drizzle, far: 0.3, heavy: 0.2, manners: polite,
		injuries: []func(*round, injury){(*round).termProxy}},
	{name: "descriptors", weather: drizzle, far: 0.3, heavy: 0.1, manners: polite,
		injuries: []func(*round, injury){(*round).starve, (*round).starveAsleep}},
	{name: "redis", weather: storm, far: 0.5, heavy: 0.3, redis: true,
		injuries: []func(*round, injury){(*round).stopChild, (*round).stopProxy},
		outages:  []func(*round, injury){(*round).outage}},
	{name: "everything", weather: storm, far: 0.5, heavy: 0.2, manners: shaky,
		injuries: []func(*round, injury){(*round).killChild, (*round).stopChild, (*round).starve, (*round).stopProxy, (*round).termProxy, (*round).killProxy},
		outages:  []func(*round, injury){(*round).outage, (*round).pullDown}},
}

// form is how much of everything there is.
type form struct {
	clients  int           // in a round
	span     time.Duration // in which they come
	faults   int           // of each kind of list, in a round
	heavy    int64         // bytes that a heavy client moves in each direction, at least
	outlive  time.Duration // how long something may outlive tiproxy
	recovery time.Duration // until clients are answered when there are descriptors again
}

// startSlack is for the start of the child, if there is none when tiproxy has
// descriptors again.
const startSlack = 500 * time.Millisecond

var (
	// shortForm has room for a machine that is busy with other tests.
	shortForm = form{clients: 24, span: 2500 * time.Millisecond, faults: 1, heavy: 128 << 10, outlive: 15 * time.Second, recovery: 15 * time.Second}
	longForm  = form{clients: 90, span: 9 * time.Second, faults: 3, heavy: 1 << 20, outlive: 4 * time.Second, recovery: time.Second + startSlack}
)

// visits draws the clients of a round. They come in waves, with pauses in
// which the child may fall asleep.
func (s scenario) visits(r *rand.Rand, f form) []visit {
	const wave = 700 * time.Millisecond
	waves := max(1, int(f.span/wave))
	all := make([]visit, f.clients)
	for i := range all {
		v := visit{
			number: i + 1, far: r.Float64() < s.far, pause: 20*time.Millisecond + upTo(r, 200*time.Millisecond),
			at: time.Duration(r.IntN(waves))*wave + time.Duration(r.ExpFloat64()*float64(50*time.Millisecond)),
		}
		s.dress(r, f, &v)
		all[i] = v
	}
	return all
}

// dress gives a client its habit and what goes with it.
func (s scenario) dress(r *rand.Rand, f form, v *visit) {
	asks, size := 1, int64(2000)
	light := []habit{short, short, short, long, half, half, silent, leaving}
	if v.habit = light[r.IntN(len(light))]; r.Float64() < s.heavy {
		v.habit, size = []habit{bulk, slow, half}[r.IntN(3)], 2*f.heavy
	}
	switch v.habit {
	case long:
		asks = 3 + r.IntN(5)
	case slow:
		v.pause = 2 * time.Millisecond
	case silent:
		v.pause = 300*time.Millisecond + upTo(r, 1500*time.Millisecond)
	case leaving:
		size, v.leave = 200_000, max(0, 1.2*r.Float64()-0.4)
	}
	for range asks {
		a := ask{Up: size/2 + r.Int64N(size), Down: size/2 + r.Int64N(size), Seed: r.Uint64()}
		v.asks = append(v.asks, a)
	}
}

// plan draws what goes wrong in a round, spread over the time in which clients come.
func (f form) plan(r *rand.Rand, acts []func(*round, injury)) []injury {
	if len(acts) == 0 {
		return nil
	}
	count := max(f.faults, min(len(acts), 2*f.faults))
	all := make([]injury, count)
	first := r.IntN(len(acts))
	for i := range all {
		all[i] = injury{
			at: upTo(r, f.span/time.Duration(count)), act: acts[(first+i)%len(acts)],
			length: 300*time.Millisecond + upTo(r, 1200*time.Millisecond), pick: r.Uint64(),
		}
	}
	return all
}

func upTo(r *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(r.Int64N(int64(most)))
}
