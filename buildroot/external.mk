include $(sort $(wildcard $(BR2_EXTERNAL_PARAGLIDER_PATH)/package/*/*.mk))
