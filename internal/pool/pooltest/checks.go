package pooltest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"tiproxy/internal/pool"
)

func readyReturnsAddress(ctx context.Context, s *subject) error {
	life, err := s.startReady(ctx, Obedient)
	if err != nil {
		return err
	}
	if !s.Alive(life) {
		return errors.New("ready, but not alive")
	}
	if _, err = life.Ready(ctx); err != nil {
		return fmt.Errorf("second Ready: %w", err)
	}
	return noExit(life, 0)
}

func readyEndsWithContext(ctx context.Context, s *subject) error {
	life, err := s.start(ctx, NeverReady)
	if err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	for _, what := range []string{"ends", "has ended"} {
		err = within(promptly, func() {
			if _, e := life.Ready(short); !errors.Is(e, context.DeadlineExceeded) {
				err = fmt.Errorf("want its context's error of Ready, not %v", e) //nolint:errorlint // it may be nil
			}
		})
		if err != nil {
			return fmt.Errorf("context %s: %w", what, err)
		}
	}
	if !s.Alive(life) {
		return errors.New("giving up on Ready ended the life")
	}
	return noExit(life, 0)
}

// ownError fails unless err is a life's own word, not that of a context.
func ownError(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("want an error of its own from Ready of a life that has ended, not %v", err) //nolint:errorlint // it may be nil
	}
	return nil
}

func readyFailsAfterEnd(ctx context.Context, s *subject) error {
	life, err := s.start(ctx, NeverReady)
	if err != nil {
		return err
	}
	pending := make(chan error, 1)
	go askReady(ctx, life, pending)
	s.End(life)
	if err := ownError(<-pending); err != nil {
		return fmt.Errorf("pending: %w", err)
	}
	if _, err := exitOf(ctx, life); err != nil {
		return err
	}
	_, err = life.Ready(ctx)
	return ownError(err)
}

func pendingReadyFailsOnStop(ctx context.Context, s *subject) error {
	life, err := s.start(ctx, NeverReady)
	if err != nil {
		return err
	}
	pending := make(chan error, 1)
	go askReady(ctx, life, pending)
	life.Stop(ctx)
	if err := ownError(<-pending); err != nil {
		return fmt.Errorf("pending: %w", err)
	}
	_, err = life.Ready(ctx)
	return ownError(err)
}

func askReady(ctx context.Context, life pool.Life, answer chan<- error) {
	_, err := life.Ready(ctx)
	answer <- err
}

func exitIsOneValue(ctx context.Context, s *subject) error {
	life, err := s.startReady(ctx, Obedient)
	if err != nil {
		return err
	}
	if once, again := life.Exited(), life.Exited(); once != again {
		return errors.New("Exited returns another channel each time")
	}
	if err := noExit(life, 0); err != nil {
		return err
	}
	s.End(life)
	e, err := exitOf(ctx, life)
	if err != nil {
		return err
	}
	if e.Err != nil || e.Left || e.Status == "" {
		return fmt.Errorf("exit = %+v, want no error, nothing left and some status", e)
	}
	life.Stop(ctx)
	return noExit(life, quiet)
}

func exitTellsLeft(ctx context.Context, s *subject) error {
	life, err := s.startReady(ctx, Parent)
	if err != nil {
		return err
	}
	s.End(life)
	e, err := exitOf(ctx, life)
	if err != nil {
		return err
	}
	if !e.Left {
		return fmt.Errorf("exit = %+v, want Left", e)
	}
	if !s.Alive(life) {
		return errors.New("what the exit calls left is not alive")
	}
	return nil
}

func stopLeavesNothing(ctx context.Context, s *subject) error {
	for _, b := range []Behaviour{Obedient, NeverReady} {
		s.res = s.Make(b)
		life, err := s.start(ctx, b)
		if err != nil {
			return err
		}
		life.Stop(ctx)
		if s.Alive(life) {
			return errors.New("alive after Stop")
		}
		if ctx.Err() != nil {
			return errors.New("Stop needed force")
		}
		e, err := exitOf(ctx, life)
		if err != nil {
			return err
		}
		if e.Status == "" || e.Left {
			return fmt.Errorf("exit = %+v, want some status and nothing left", e)
		}
	}
	return nil
}

func stopEndsLeft(ctx context.Context, s *subject) error {
	life, err := s.startReady(ctx, Parent)
	if err != nil {
		return err
	}
	s.End(life)
	if _, err := exitOf(ctx, life); err != nil {
		return err
	}
	life.Stop(ctx)
	if s.Alive(life) {
		return errors.New("what was left is alive after Stop")
	}
	return noExit(life, 0)
}

func stopOfGone(ctx context.Context, s *subject) error {
	life, err := s.startReady(ctx, Stubborn)
	if err != nil {
		return err
	}
	s.End(life)
	if _, err := exitOf(ctx, life); err != nil {
		return err
	}
	for range 2 {
		if err := within(promptly, func() { life.Stop(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

func stopTurnsForceful(ctx context.Context, s *subject) error {
	life, err := s.startReady(ctx, Stubborn)
	if err != nil {
		return err
	}
	force, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan struct{})
	go closeAfter(stopped, func() { life.Stop(force) })
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	select {
	case <-stopped:
		return errors.New("Stop of a life that ignores it returned without force")
	case <-timer.C:
	}
	cancel()
	if err := within(promptly, func() { <-stopped }); err != nil {
		return err
	}
	return deadAndReported(ctx, s, life)
}

func stopIsForceful(ctx context.Context, s *subject) error {
	life, err := s.startReady(ctx, Stubborn)
	if err != nil {
		return err
	}
	force, cancel := context.WithCancel(ctx)
	cancel()
	if err := within(promptly, func() { life.Stop(force) }); err != nil {
		return err
	}
	return deadAndReported(ctx, s, life)
}

func deadAndReported(ctx context.Context, s *subject, life pool.Life) error {
	if s.Alive(life) {
		return errors.New("alive after Stop")
	}
	e, err := exitOf(ctx, life)
	if err == nil && e.Err == nil {
		err = fmt.Errorf("exit = %+v of a life that was killed, want an error", e)
	}
	return err
}

func concurrentUse(ctx context.Context, s *subject) error {
	for _, end := range []func(pool.Life){func(pool.Life) {}, s.End} {
		life, err := s.start(ctx, Obedient)
		if err != nil {
			return err
		}
		var early atomic.Bool
		together(12, func(i int) {
			switch i % 3 {
			case 0:
				life.Stop(ctx)
				if s.Alive(life) {
					early.Store(true)
				}
			case 1:
				_, _ = life.Ready(ctx) // may come before the stop or after it
			case 2:
				end(life)
			}
		})
		if early.Load() {
			return errors.New("alive after one of several Stops")
		}
		if _, err = exitOf(ctx, life); err != nil {
			return err
		}
	}
	return nil
}

func startAfterStop(ctx context.Context, s *subject) error {
	for range 3 {
		life, err := s.startReady(ctx, Obedient)
		if err != nil {
			return err
		}
		life.Stop(ctx)
		if _, err := exitOf(ctx, life); err != nil {
			return err
		}
	}
	return nil
}

func startAfterExit(ctx context.Context, s *subject) error {
	for range 3 {
		life, err := s.startReady(ctx, Obedient)
		if err != nil {
			return err
		}
		s.End(life)
		if _, err := exitOf(ctx, life); err != nil {
			return err
		}
		if s.Alive(life) {
			return errors.New("alive after an exit that left nothing")
		}
	}
	return nil
}

func lifeOutlivesStartContext(ctx context.Context, s *subject) error {
	short, cancel := context.WithCancel(ctx)
	life, err := s.startReady(short, Obedient)
	cancel()
	if err != nil {
		return err
	}
	if err := noExit(life, quiet); err != nil {
		return err
	}
	_, err = life.Ready(ctx)
	return err
}

func failedStart(ctx context.Context, s *subject) error {
	for gen := range uint64(2) {
		life, err := s.Make(Broken).Start(ctx, gen+1)
		if err == nil || life != nil {
			return fmt.Errorf("want an error and no life from Start, not %v and %v", life, err) //nolint:errorlint // it may be nil
		}
		if err.Error() == "" {
			return errors.New("the error of a start says nothing")
		}
	}
	return nil
}
