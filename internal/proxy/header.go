package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/pires/go-proxyproto"
)

// The PROXY protocol tells a server who its client is; see
// https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt (the numbers in
// comments are that document's sections).

const (
	v1Max   = 107 // bytes of a version 1 header with its CRLF, at most (2.1)
	v2Fixed = 16  // bytes of a version 2 header before its addresses (2.2)
	// A version 1 header has 15 bytes at least, so this many can be read
	// before it is known which version it is.
	signature = 12

	v4Block = 12 // bytes of the addresses and ports of TCP over IPv4 (2.2)
	v6Block = 36 // and over IPv6
)

var (
	errHeaderLate  = errors.New("no whole PROXY header came in time")
	errHeaderWrong = errors.New("wrong PROXY header")
)

// v1Starts are the ways in which a version 1 header can begin (2.1).
var v1Starts = [][]byte{[]byte("PROXY TCP4 "), []byte("PROXY TCP6 "), []byte("PROXY UNKNOWN")}

// header is what a PROXY header says.
type header struct {
	// local means that there are no addresses: those of the socket count.
	local        bool
	source, dest netip.AddrPort // IPv4 is never written as IPv6
}

// readHeader reads the PROXY header with which nc begins, of either version,
// and no byte of what comes behind it, so that the socket can be spliced from.
// It takes at most limit, if that is above 0, and leaves no read deadline.
//
// The error is ctx's cause if ctx ends first, or it wraps errClientLeft,
// errHeaderLate or errHeaderWrong. A client that half-closes before its first
// byte, as a health check does, has left.
func readHeader(ctx context.Context, nc net.Conn, limit time.Duration) (header, error) {
	if limit > 0 {
		nc.SetReadDeadline(time.Now().Add(limit)) // a socket that fails here fails in Read
	}
	wake := waker{nc}
	stop := context.AfterFunc(ctx, wake.up)
	r := headerReader{nc: nc, limit: limit}
	h, err := r.read()
	if !stop() {
		return header{}, context.Cause(ctx)
	}
	nc.SetReadDeadline(time.Time{})
	return h, err
}

// waker ends the reads from a connection.
type waker struct{ nc net.Conn }

func (w waker) up() { w.nc.SetReadDeadline(time.Unix(1, 0)) }

// headerReader reads one header. It asks the socket only for bytes that must
// be part of it.
type headerReader struct {
	nc    net.Conn
	limit time.Duration
	buf   [v1Max]byte // large enough for version 2 without what is skipped
	n     int         // bytes of buf that are read
}

func (r *headerReader) read() (header, error) {
	for r.n < signature {
		if err := r.more(signature); err != nil {
			return header{}, err
		}
		// The sooner the better for somebody who sends less and waits.
		if !mayBegin(r.buf[:r.n]) {
			// What came instead is not told: it may be a client's password.
			return header{}, fmt.Errorf("%w: there is none", errHeaderWrong)
		}
	}
	if bytes.Equal(r.buf[:signature], proxyproto.SIGV2) {
		return r.version2()
	}
	return r.version1()
}

// mayBegin reports whether a header can begin with b.
func mayBegin(b []byte) bool {
	if bytes.HasPrefix(proxyproto.SIGV2, b) {
		return true
	}
	for _, start := range v1Starts {
		if n := min(len(b), len(start)); bytes.Equal(b[:n], start[:n]) {
			return true
		}
	}
	return false
}

// version1 reads the rest of a header of version 1: a line whose length is
// known only when its end is seen.
func (r *headerReader) version1() (header, error) {
	for r.buf[r.n-1] != '\n' {
		if r.n == v1Max {
			return header{}, fmt.Errorf("%w: no CRLF within %d bytes", errHeaderWrong, v1Max)
		}
		if err := r.more(r.n + 1); err != nil {
			return header{}, err
		}
	}
	return r.parse()
}

// version2 reads the rest of a header of version 2. The addresses are taken
// only for TCP. What else the header has in it is skipped without being kept:
// it may be 64 KiB.
func (r *headerReader) version2() (header, error) {
	if err := r.all(v2Fixed); err != nil {
		return header{}, err
	}
	block, err := v2Block(r.buf[12], r.buf[13])
	if err != nil {
		return header{}, err
	}
	length := int(binary.BigEndian.Uint16(r.buf[14:]))
	if length < block {
		return header{}, fmt.Errorf("%w: version 2 with %d bytes of addresses, which have %d", errHeaderWrong, length, block)
	}
	if err := r.all(v2Fixed + block); err != nil {
		return header{}, err
	}
	if err := r.skip(length - block); err != nil {
		return header{}, err
	}
	if block == 0 {
		return header{local: true}, nil
	}
	binary.BigEndian.PutUint16(r.buf[14:], uint16(block))
	return r.parse()
}

// v2Block returns the size of the addresses that a header of version 2 brings
// for TCP, by its 13th and 14th byte; 0 if those of the socket count.
//
// For LOCAL they always do, whatever the family. Where the specification lets
// the receiver choose, a stream whose addresses are no use here is served like
// one that has none, and a datagram cannot be what comes here.
func v2Block(versionCommand, family byte) (int, error) {
	command := proxyproto.ProtocolVersionAndCommand(versionCommand)
	switch {
	case versionCommand>>4 != 2:
		return 0, fmt.Errorf("%w: its signature is of version 2, its version is %d", errHeaderWrong, versionCommand>>4)
	case command == proxyproto.LOCAL:
		return 0, nil
	case command != proxyproto.PROXY:
		return 0, fmt.Errorf("%w: version 2 with the unknown command %d", errHeaderWrong, versionCommand&0xf)
	}
	switch proxyproto.AddressFamilyAndProtocol(family) {
	case proxyproto.TCPv4:
		return v4Block, nil
	case proxyproto.TCPv6:
		return v6Block, nil
	case proxyproto.UNSPEC, proxyproto.UnixStream:
		return 0, nil
	case proxyproto.UDPv4, proxyproto.UDPv6, proxyproto.UnixDatagram:
		return 0, fmt.Errorf("%w: version 2 for datagrams (%#02x) in front of a stream", errHeaderWrong, family)
	}
	return 0, fmt.Errorf("%w: version 2 with the unknown family and protocol %#02x", errHeaderWrong, family)
}

// parse says what the header in r.buf means.
func (r *headerReader) parse() (header, error) {
	p, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(r.buf[:r.n])))
	if err != nil {
		return header{}, fmt.Errorf("%w: %q: %w", errHeaderWrong, r.buf[:r.n], err)
	}
	if p.Command.IsLocal() {
		return header{local: true}, nil
	}
	source, dest, ok := p.TCPAddrs()
	if !ok {
		return header{}, fmt.Errorf("%w: %q has no TCP addresses", errHeaderWrong, r.buf[:r.n])
	}
	return header{source: plain(source), dest: plain(dest)}, nil
}

// plain returns a with IPv4 as IPv4.
func plain(a *net.TCPAddr) netip.AddrPort {
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// all reads until buf has n bytes.
func (r *headerReader) all(n int) error {
	for r.n < n {
		if err := r.more(n); err != nil {
			return err
		}
	}
	return nil
}

// more reads at least one byte and at most until buf has n.
func (r *headerReader) more(n int) error {
	got, err := r.nc.Read(r.buf[r.n:n])
	r.n += got
	if got > 0 {
		return nil // an error that lasts comes again
	}
	return r.failed(err)
}

// skip reads n bytes and forgets them.
func (r *headerReader) skip(n int) error {
	var scrap [512]byte
	for n > 0 {
		got, err := r.nc.Read(scrap[:min(n, len(scrap))])
		n -= got
		if got == 0 {
			return r.failed(err)
		}
	}
	return nil
}

// failed says why a read has brought nothing.
func (r *headerReader) failed(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: %d bytes within %v", errHeaderLate, r.n, r.limit)
	case errors.Is(err, io.EOF) && r.n > 0:
		return fmt.Errorf("%w: it ends after %q", errHeaderWrong, r.buf[:r.n])
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w before its PROXY header", errClientLeft)
	}
	return fmt.Errorf("%w within its PROXY header: %w", errClientLeft, err)
}

// encodeHeader returns the PROXY header of version 1 or 2 for a connection
// from source to dest. Without an IP address on both sides it says that the
// addresses of the socket count, as UNKNOWN or LOCAL, which are what every
// receiver has to take. (Version 2 knows unix sockets, but their clients have
// no names that it could tell.) IPv4 on one side only is written as IPv6.
func encodeHeader(version byte, source, dest net.Addr) ([]byte, error) {
	if version != 1 && version != 2 {
		return nil, fmt.Errorf("PROXY protocol version %d: there are 1 and 2", version)
	}
	s, sourceOK := source.(*net.TCPAddr)
	d, destOK := dest.(*net.TCPAddr)
	h := &proxyproto.Header{Version: version, Command: proxyproto.LOCAL}
	if sourceOK && destOK && s != nil && d != nil {
		h = proxyproto.HeaderProxyFromAddrs(version, s, d)
	}
	b, err := h.Format()
	if err != nil {
		return nil, fmt.Errorf("PROXY header from %v to %v: %w", source, dest, err)
	}
	return b, nil
}
