//go:build !linux

package probe

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

const bound = 30 * time.Second

const short = 50 * time.Millisecond

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
