package probe

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// diagnoseTimeout bounds the lookup of a name for a message that is nothing but
// a hint.
const diagnoseTimeout = time.Second

// Diagnose says in a few words why Dest is not ready, from what can be seen of
// tree now: "the child listens on [::1]:3000, not on 127.0.0.1:3000". It is
// meant for messages; an answer may be out of date when it is read.
func (l *Listen) Diagnose(tree Tree) string {
	ctx, cancel := context.WithTimeout(context.Background(), diagnoseTimeout)
	defer cancel()
	s, err := l.open(ctx)
	if err != nil {
		return err.Error()
	}
	defer s.tables.close()
	return s.diagnose(tree)
}

// giveUp is the error of a Wait that ctx has ended.
func (w *watch) giveUp(ctx context.Context) error {
	cause := context.Cause(ctx)
	if w.stranger == nil {
		w.stranger = w.lastDoubt()
	}
	switch {
	case w.stranger != nil:
		return fmt.Errorf("%w: %w", w.stranger, cause)
	case w.failed != nil:
		return fmt.Errorf("%w: %w", w.failed, cause)
	}
	return fmt.Errorf("%s: %w", w.scene.diagnose(w.tree), cause)
}

// lastDoubt returns the stranger who listens now, for a Wait that was too short
// to look twice.
func (w *watch) lastDoubt() *StrangerError {
	all, _ := w.scene.find() // what cannot be seen raises no doubt
	for _, f := range all {
		if theirs, err := w.listen.notOurs(w.scene.group(f), w.tree); theirs != nil && err == nil {
			return newStranger(f.addr(), *theirs)
		}
	}
	return nil
}

func (s *scene) diagnose(tree Tree) string {
	v := lookAt(tree)
	if all, err := s.find(); err == nil {
		for _, f := range all {
			if pid := v.sockets[f.inode]; pid != 0 {
				return fmt.Sprintf("the child listens on %s (process %d)", s.name(), pid)
			}
		}
	}
	text := "nothing of the child listens on " + s.name()
	if places := s.places(v); len(places) > 0 {
		text = fmt.Sprintf("the child listens on %s, not on %s", enumerate(places), s.name())
	}
	if v.blind {
		text += " (not all of its processes may be looked into)"
	}
	if elsewhere(v) {
		text += "; it lives in another network namespace, which --ready dial is for"
	}
	return text
}

// name is the destination, with what its name stands for.
func (s *scene) name() string {
	if _, err := netip.ParseAddr(s.dest.Host); err == nil || s.dest.Network == "unix" {
		return s.dest.String()
	}
	var ips []string
	for _, t := range s.targets {
		ips = append(ips, t.addr.Addr().String())
	}
	return fmt.Sprintf("%s (%s)", s.dest, strings.Join(ips, ", "))
}

// places lists where the tree listens, the destination's own port first.
func (s *scene) places(v sight) []string {
	if s.dest.Network == "unix" {
		return s.unixPlaces(v)
	}
	all, err := s.tables.listeners(0)
	if err != nil {
		return nil
	}
	var near, far []string
	for _, sock := range all {
		switch _, ok := v.sockets[sock.inode]; {
		case !ok:
		case sock.addr.Port() == s.dest.Port:
			near = append(near, sock.addr.String())
		default:
			far = append(far, sock.addr.String())
		}
	}
	return slices.Concat(sortedOnce(near), sortedOnce(far))
}

func (s *scene) unixPlaces(v sight) []string {
	all, err := s.tables.unixListeners()
	if err != nil {
		return nil
	}
	var places []string
	for _, sock := range all {
		if _, ok := v.sockets[sock.inode]; ok && sock.path != "" {
			places = append(places, "unix:"+strings.Map(printable, sock.path))
		}
	}
	return sortedOnce(places)
}

func sortedOnce(all []string) []string {
	slices.Sort(all)
	return slices.Compact(all)
}

// enumerate joins the first few.
func enumerate(all []string) string {
	const few = 5
	if len(all) > few {
		return strings.Join(all[:few], ", ") + " and " + strconv.Itoa(len(all)-few) + " more"
	}
	return strings.Join(all, ", ")
}

// elsewhere reports whether a process of the tree lives in another network
// namespace than we do, whose sockets our tables do not show.
func elsewhere(v sight) bool {
	ours, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return false
	}
	for pid := range v.pids {
		theirs, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/net")
		if err == nil && theirs != ours {
			return true
		}
	}
	return false
}
