package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
)

func TestLinesOfALogAreCountedAndNoneMayBeMissing(t *testing.T) {
	line := func(n int) string { return fmt.Sprintf("%0*d\n", lineBytes-1, n) }
	for what, c := range map[string]struct {
		log    string
		came   int64
		failed error  // nil if it must not, or if words say more
		words  string // of the error
	}{
		"all":             {line(0) + line(1) + line(2), 3, nil, ""},
		"more than asked": {line(0) + line(1) + line(2) + line(3), 3, nil, ""},
		"stalled":         {line(0) + line(1), 2, io.ErrUnexpectedEOF, "line 2 of 3"},
		"cut off":         {line(0) + line(1) + "0000", 2, io.ErrUnexpectedEOF, "line 2 of 3"},
		"a gap":           {line(0) + line(2), 1, nil, "line 1 of 3: expected its number"},
		"another length":  {line(0) + "1\n", 1, nil, "expected its number in 100 bytes"},
		"no line":         {line(0) + strings.Repeat("0", 1<<17), 1, bufio.ErrBufferFull, "line 1 of 3"},
	} {
		var came atomic.Int64
		took, err := readLines(bufio.NewReaderSize(strings.NewReader(c.log), 64<<10), 3, &came)
		if came.Load() != c.came || (err == nil) != (c.words == "") || err != nil && !strings.Contains(err.Error(), c.words) || c.failed != nil && !errors.Is(err, c.failed) || took < 0 {
			t.Errorf("%s: %d lines came, %v, %v; expected %d, %q", what, came.Load(), took, err, c.came, c.words)
		}
	}
}
