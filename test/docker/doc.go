// Package dockere2e tests the Docker files as their users meet them: the lines
// of the quick start, typed as they stand, on a real Docker engine.
//
// No image can be pulled here. In the place of TiDB's images there are
// stand-ins, made of Debian's own files (libc, a shell) and of
// docker/testdata/standin, which speaks MySQL's protocol and keeps its tables
// like a tidb-server that is asked to stop. They are not TiDB: what is shown is
// that the image, the compose files and tiproxy do what they promise, and not
// how TiDB behaves.
//
// Always true here: the engine is this test's own, in namespaces of its own,
// with its data in a temporary directory, so nothing it does is seen outside,
// and all of it ends with it. Nothing is waited for without a bound, and
// nothing by sleeping.
package dockere2e
