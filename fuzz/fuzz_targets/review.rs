#![no_main]
//! See `house::fuzz::review`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = house::fuzz::review(data);
});
