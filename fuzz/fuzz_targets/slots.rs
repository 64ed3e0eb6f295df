#![no_main]
//! See `house::fuzz::slots`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = house::fuzz::slots(data);
});
