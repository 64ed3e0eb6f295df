#![no_main]
//! See `house::fuzz::holding`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = house::fuzz::holding(data);
});
