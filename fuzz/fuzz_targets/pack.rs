#![no_main]
//! See `house::fuzz::pack`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = house::fuzz::pack(data);
});
