package main

import "testing"

func TestDashboard_ListensOnThisMachineOnly(t *testing.T) {
	for listen, right := range map[string]bool{
		"127.0.0.1:0": true, "127.0.0.2:8080": true, "[::1]:0": true, "localhost:8080": true,
		"0.0.0.0:8080": false, ":8080": false, "[::]:8080": false, "192.0.2.1:80": false, "example.org:80": false, "127.0.0.1": false, "": false, "8080": false,
	} {
		if err := onlyHere(listen); (err == nil) != right {
			t.Errorf("%q: %v", listen, err)
		}
	}
}
