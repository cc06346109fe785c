package admin_test

import (
	"context"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(strangerName); path != "" {
		stranger(path)
		return
	}
	// After refusing a request net/http waits half a second for its sender.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// contextOfStranger bounds what the test binary asks as somebody else.
func contextOfStranger() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	_ = cancel // ends with the process
	return ctx
}
