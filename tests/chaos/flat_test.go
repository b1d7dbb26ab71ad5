package chaos

import "testing"

func TestMemoryThatIsFreeIsNotHeld(t *testing.T) {
	got, err := spare("go_memstats_heap_idle_bytes 5e+07\ngo_memstats_heap_released_bytes 2e+07\n")
	if err != nil || got != 30_000_000 {
		t.Errorf("%d bytes are to spare, %v; expected 30000000", got, err)
	}
	if _, err := spare("go_memstats_heap_idle_bytes 5e+07\n"); err == nil {
		t.Error("without what was given back it cannot be told, and was")
	}
}
