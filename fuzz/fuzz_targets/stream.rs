#![no_main]
//! See `house::fuzz::stream`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = house::fuzz::stream(data);
});
