#![no_main]
//! See `house::fuzz::region`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = house::fuzz::region(data);
});
