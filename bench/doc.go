// Command bench measures tiproxy beside other TCP proxies and beside no proxy
// at all, on the machine that it runs on.
//
// Whoever is measured carries the bytes of the same servers, started with the
// same command lines, for the same clients, which run in a process of their
// own. Within a round everybody is measured right after the others, in an order
// that changes from round to round, and a ratio is always one of two values of
// the same round. All traffic stays on loopback, on ports that were free.
package main
